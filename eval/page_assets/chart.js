// One chart: points, their intervals, the curves through them, reference lines, a front. Drawn at the width it has.

const WIDE = 620;
const NEAR = 30; // pixels within which the pointer finds a point

/** Draw `spec` into `host`: x, y (columns), rows, xlog, ylog, and what else the panel wants (see charts.js). */
function drawChart(host, spec) {
  const width = Math.max(260, host.clientWidth);
  const wide = width >= WIDE;
  const box = { left: 54, right: wide && spec.labels ? 110 : 14, top: 28, bottom: 42, width, height: spec.height };
  const drawn = spec.rows.filter((row) => Number.isFinite(row[spec.x.key]) && Number.isFinite(row[spec.y.key]));
  const lines = spec.reference ? drawn.filter((row) => row.family === "identity") : [];
  const rows = drawn.filter((row) => !lines.includes(row));
  const x = makeScale(rows.map((row) => row[spec.x.key]), spec.xlog, box.left, width - box.right);
  const y = makeScale(heights(drawn, spec), spec.ylog, box.height - box.bottom, box.top);
  const points = rows.filter((row) => x.takes(row[spec.x.key]) && y.takes(row[spec.y.key])).map((row) => ({
    row, series: `${row.view} ${row.family}`, x: x(row[spec.x.key]), y: y(row[spec.y.key]),
  }));
  points.sort((a, b) => a.x - b.x || a.y - b.y);
  const picture = svg("svg", {
    viewBox: `0 0 ${width} ${box.height}`, role: "group", class: points.length > 40 ? "chart crowded" : "chart",
    "aria-label": `${spec.y.label} against ${spec.x.label}, ${points.length} points; arrow keys go from point to point`,
  });
  const across = referenceLines(box, y, lines, spec);
  picture.append(axes(box, x, y, spec), ...across.map((line) => line.node));
  if (points.length) {
    picture.append(...(spec.front ? [frontLine(points, spec)] : spec.lines ? curves(points, spec) : []));
    if (spec.intervals) picture.append(...points.map((point) => whisker(point, y, spec)).filter(Boolean));
    const taken = points.map((point) => around(point.x, point.y, 6, 6));
    picture.append(...referenceNames(across, box, taken), ...(wide && spec.labels ? curveNames(points, box, spec, taken) : []));
    const marks = points.map((point) => mark(point, spec));
    picture.append(svg("g", { class: "points" }, marks));
    interact(picture, points, marks, spec);
  } else {
    picture.append(svg("text", { x: width / 2, y: box.height / 2, class: "empty" }, "nothing to show"));
  }
  host.replaceChildren(picture);
  return points;
}

/** Every height that must be inside: values, intervals, and chance where it is near. */
function heights(rows, spec) {
  const values = rows.map((row) => row[spec.y.key]);
  const ends = spec.intervals ? rows.flatMap((row) => interval(spec.y, row, spec.score) || []) : [];
  const [low, high] = extent([...values, ...ends]);
  const near = spec.y.key === spec.score && spec.chance !== null && low - spec.chance < 0.8 * (high - low);
  return [...values, ...ends, ...(near ? [spec.chance] : []), ...(spec.y.key === "gain" ? [0] : [])];
}

function axes(box, x, y, spec) {
  const group = svg("g", { class: "axes", "aria-hidden": "true" });
  const [right, bottom] = [box.width - box.right, box.height - box.bottom];
  const [down, across] = [y.ticks(Math.floor((bottom - box.top) / 42)), x.ticks(Math.floor((right - box.left) / 58))];
  const [beside, below] = [tickTexts(down, spec.y, spec.ylog), tickTexts(across, spec.x, spec.xlog)];
  down.map(y).forEach((at, n) => group.append(
    svg("line", { x1: box.left, x2: right, y1: at, y2: at, class: "grid" }),
    svg("text", { x: box.left - 8, y: at + 4, "text-anchor": "end" }, beside[n])));
  across.map(x).forEach((at, n) => group.append(
    svg("line", { x1: at, x2: at, y1: bottom, y2: bottom + 5, class: "tick" }),
    svg("text", { x: at, y: bottom + 18, "text-anchor": "middle" }, below[n])));
  const named = (column, log) => column.label + (log ? ", log" : "");
  group.append(svg("line", { x1: box.left, x2: right, y1: bottom, y2: bottom, class: "base" }),
    svg("text", { x: right, y: box.height - 6, "text-anchor": "end", class: "name" }, named(spec.x, spec.xlog) + " \u2192"),
    svg("text", { x: 4, y: 12, class: "name" }, "\u2191 " + named(spec.y, spec.ylog)));
  return group;
}

/** Originals have no rate worth a place on the axis: they are lines across, the control with its band. */
function referenceLines(box, y, rows, spec) {
  const right = box.width - box.right;
  const lines = rows.filter((row) => y.takes(row[spec.y.key])).map((row) => ({
    name: `${row.view} ${format(spec.y, row[spec.y.key])}`, at: y(row[spec.y.key]), view: row.view,
    ends: spec.intervals && row.view === spec.control ? interval(spec.y, row, spec.score) : null,
  }));
  const inside = spec.chance !== null && spec.y.key === spec.score && spec.chance >= y.domain[0];
  if (inside) lines.push({ name: `chance ${format(spec.y, spec.chance)}`, at: y(spec.chance), view: "chance" });
  return lines.map((line) => ({ ...line, node: svg("g", { class: `reference ${line.view}` },
    line.ends ? svg("rect", { x: box.left, width: right - box.left, y: y(line.ends[1]),
      height: Math.max(0, y(line.ends[0]) - y(line.ends[1])) }) : null,
    svg("line", { x1: box.left, x2: right, y1: line.at, y2: line.at })) }));
}

function seriesOf(points) {
  const series = new Map();
  for (const point of points) series.set(point.series, [...(series.get(point.series) || []), point]);
  return [...series.values()];
}

function pathOf(points) {
  return "M" + points.map((p) => `${p.x.toFixed(1)},${p.y.toFixed(1)}`).join("L");
}

function curves(points, spec) {
  return seriesOf(points).filter((members) => members.length > 1).map((members) => svg("path", {
    d: pathOf(members), class: "line", "data-series": members[0].series,
    stroke: spec.colours.of(members[0].row.family), "stroke-dasharray": dash(members[0].row.view, spec.views),
  }));
}

function whisker(point, y, spec) {
  const ends = interval(spec.y, point.row, spec.score);
  if (!ends || !ends.every(y.takes)) return null;
  const [low, high] = ends.map(y);
  return svg("path", {
    d: `M${point.x},${low}V${high}M${point.x - 3},${low}h6M${point.x - 3},${high}h6`, class: "whisker",
    "data-series": point.series, stroke: spec.colours.of(point.row.family),
  });
}

function mark(point, spec) {
  const colour = spec.colours.of(point.row.family);
  const front = spec.front && spec.front.includes(point.row);
  return svg("path", {
    d: shape(point.row.view, front ? 6.2 : 4.6), transform: `translate(${point.x.toFixed(1)} ${point.y.toFixed(1)})`,
    class: `point${front ? " front" : spec.front ? " behind" : ""}`, stroke: colour,
    fill: filled(point.row.view) ? colour : "var(--paper)", tabindex: "-1", role: "img",
    "data-series": point.series, "data-name": title(point.row),
    "aria-label": `${title(point.row)}: ${tipLines(point.row, spec).map((parts) => parts.join(" ")).join(", ")}`,
  });
}

function frontLine(points, spec) {
  const members = points.filter((point) => spec.front.includes(point.row));
  const steps = members.map((p, n) => (n ? (spec.x.better === "high" ? `V${p.y}H${p.x}` : `H${p.x}V${p.y}`)
    : `M${p.x},${p.y}`));
  return svg("path", { d: steps.join(""), class: "frontier" });
}

function tipLines(row, spec) {
  const extra = spec.about.filter((c) => c !== spec.x && c !== spec.y && row[c.key] !== null && row[c.key] !== undefined);
  return [spec.y, spec.x, ...extra].map((column) =>
    [column.label, format(column, row[column.key]), spread(column, row)].filter(Boolean));
}

/** The nearest point shows what it is: to the pointer, to a finger, and to the arrow keys. */
function interact(picture, points, marks, spec) {
  let active = -1;
  const select = (n, focus) => {
    if (active >= 0) marks[active].classList.remove("active");
    active = n;
    picture.classList.toggle("dimmed", n >= 0);
    for (const part of picture.querySelectorAll("[data-series]")) {
      part.classList.toggle("same", n >= 0 && part.dataset.series === points[n].series);
    }
    if (n < 0) return tip.hide();
    marks[n].classList.add("active");
    if (focus) {
      marks.forEach((m, k) => m.setAttribute("tabindex", k === n ? "0" : "-1"));
      marks[n].focus();
    }
    return tip.show(marks[n], title(points[n].row), tipLines(points[n].row, spec));
  };
  marks[0].setAttribute("tabindex", "0");
  marks.forEach((m, n) => {
    m.addEventListener("focus", () => active !== n && select(n, false));
    m.addEventListener("blur", () => select(-1, false));
  });
  const nearest = (event) => {
    const frame = picture.getBoundingClientRect();
    const ratio = picture.viewBox.baseVal.width / frame.width;
    const [px, py] = [(event.clientX - frame.left) * ratio, (event.clientY - frame.top) * ratio];
    let best = [-1, NEAR];
    points.forEach((point, n) => {
      const distance = Math.hypot(point.x - px, point.y - py);
      if (distance < best[1]) best = [n, distance];
    });
    return best[0];
  };
  picture.addEventListener("pointermove", (event) => {
    const n = nearest(event);
    if (n !== active) select(n, false);
  });
  picture.addEventListener("pointerdown", (event) => select(nearest(event), false));
  picture.addEventListener("pointerleave", () => select(-1, false));
  picture.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const goal = event.key === "Home" ? 0 : event.key === "End" ? points.length - 1 : active + step;
    if (!Number.isInteger(goal) || active < 0) return;
    event.preventDefault();
    select((goal + points.length) % points.length, true);
  });
}
