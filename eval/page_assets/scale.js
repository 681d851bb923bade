// Axes: from values to pixels, and where the ticks are.

function extent(values) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  return [low, high];
}

/** A scale over the values, with some room at both ends. */
function makeScale(values, log, from, to, room = 0.06) {
  const forward = log ? Math.log10 : (v) => v;
  const back = log ? (v) => 10 ** v : (v) => v;
  let [low, high] = extent(values.filter((v) => Number.isFinite(v) && (!log || v > 0)).map(forward));
  if (!(high >= low)) [low, high] = [0, 1];
  if (high === low) {
    const half = log ? 0.2 : Math.abs(low) * 0.1 || 0.5;
    [low, high] = [low - half, high + half];
  }
  const extra = (high - low) * room;
  [low, high] = [low - extra, high + extra];
  const scale = (value) => from + ((forward(value) - low) / (high - low)) * (to - from);
  scale.takes = (value) => Number.isFinite(value) && (!log || value > 0);
  scale.domain = [back(low), back(high)];
  scale.ticks = (count) => (log ? logTicks(low, high, count) : linearTicks(low, high, count));
  return scale;
}

function linearTicks(low, high, count) {
  const rough = (high - low) / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999);
  const ticks = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n += 1) ticks.push(n * step);
  return ticks;
}

/** 1, 2, 5 of each decade, or fewer where these are too many; plain steps where there is less than a decade's third. */
function logTicks(low, high, count) {
  const within = (digits) => {
    const ticks = [];
    for (let power = Math.floor(low); power <= Math.ceil(high); power += 1) {
      for (const digit of digits) {
        const value = digit * 10 ** power;
        if (Math.log10(value) >= low - 1e-9 && Math.log10(value) <= high + 1e-9) ticks.push(value);
      }
    }
    return ticks;
  };
  for (const digits of [[1, 1.5, 2, 3, 4, 5, 7], [1, 2, 5], [1, 3], [1]]) {
    const ticks = within(digits);
    if (ticks.length <= count) return ticks.length >= 2 ? ticks : linearTicks(10 ** low, 10 ** high, count);
  }
  const decades = within([1]);
  return decades.filter((_, n) => n % Math.ceil(decades.length / count) === 0);
}

/** The texts of ticks: linear ones with the same number of digits, all as short as they can be. */
function tickTexts(ticks, column, log) {
  const number = (value) => Number(value.toPrecision(4));
  const digits = log ? 0 : Math.max(...ticks.map((value) => (String(number(value)).split(".")[1] || "").length));
  return ticks.map((value) => {
    if (column.kind === "percent") return `${number(100 * value)}\u202f%`;
    if (Math.abs(value) >= 1000) return short(value).replace(/\.0+(?=\D|$)/, "").replace(/(\.\d*?)0+(?=\D|$)/, "$1");
    return (log ? String(number(value)) : number(value).toFixed(digits)).replace("-", MINUS);
  });
}
