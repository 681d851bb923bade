// How a condition looks: the colour is its codec, the mark its view, the same in every chart.

const COLOURS = 12;

const SHAPES = {
  pixels: (r) => star(r * 1.35),
  bigpatch: (r) => polygon([[-0.4, -1.1], [0.4, -1.1], [0.4, -0.4], [1.1, -0.4], [1.1, 0.4], [0.4, 0.4], [0.4, 1.1],
    [-0.4, 1.1], [-0.4, 0.4], [-1.1, 0.4], [-1.1, -0.4], [-0.4, -0.4]], r),
  resize: (r) => polygon([[-0.9, -0.9], [0.9, -0.9], [0.9, 0.9], [-0.9, 0.9]], r),
  spectrogram: (r) => polygon([[0, -1.2], [1.14, -0.37], [0.71, 0.97], [-0.71, 0.97], [-1.14, -0.37]], r),
  latent: (r) => `M${-r},0a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0Z`,
  reconstruction: (r) => polygon([[0, -1.25], [1.25, 0], [0, 1.25], [-1.25, 0]], r),
  retrained: (r) => polygon([[0, -1.2], [1.15, 0.9], [-1.15, 0.9]], r),
};

SHAPES.waveform = SHAPES.pixels;
SHAPES.resample = SHAPES.resize;

function polygon(points, r) {
  return "M" + points.map(([x, y]) => `${(x * r).toFixed(2)},${(y * r).toFixed(2)}`).join("L") + "Z";
}

function star(r) {
  const points = [];
  for (let n = 0; n < 10; n += 1) {
    const radius = n % 2 ? 0.45 : 1;
    points.push([radius * Math.sin((n * Math.PI) / 5), -radius * Math.cos((n * Math.PI) / 5)]);
  }
  return polygon(points, r);
}

function shape(view, radius) {
  return (SHAPES[view] || SHAPES.latent)(radius);
}

/** Views whose mark is filled; the others are outlines, so that both of one codec can be told apart. */
function filled(view) {
  return view !== "reconstruction" && view !== "retrained";
}

function dash(view, views) {
  if (view === "retrained") return "1 4";
  return view === "reconstruction" && views.includes("latent") ? "5 4" : null;
}

function makeColours(rows) {
  const names = [...new Set(rows.filter((row) => row.family !== "identity").map((row) => row.family))];
  const colours = { identity: "var(--ink)" };
  names.forEach((name, n) => {
    const base = `var(--c${n % COLOURS})`;
    colours[name] = n < COLOURS ? base : `color-mix(in oklab, ${base} 55%, var(--ink))`;
  });
  return { names, of: (family) => colours[family] || "var(--ink)" };
}
