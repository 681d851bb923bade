// The panels: which columns each chart shows, its controls, and one legend for all of them.

function paretoFront(rows, x, y) {
  const sign = (column, fallback) => ((column.better || fallback) === "low" ? -1 : 1);
  const [sx, sy] = [sign(x, "low"), sign(y, "high")];
  const usable = rows.filter((row) => Number.isFinite(row[x.key]) && Number.isFinite(row[y.key]));
  usable.sort((a, b) => sx * (b[x.key] - a[x.key]) || sy * (b[y.key] - a[y.key]));
  const front = [];
  let best = -Infinity;
  for (const row of usable) {
    if (sy * row[y.key] > best) {
      front.push(row);
      best = sy * row[y.key];
    }
  }
  return front;
}

function chartsSection(data, host) {
  const columns = new Map(data.columns.map((column) => [column.key, column]));
  const has = (key) => columns.has(key) && data.rows.filter((row) => Number.isFinite(row[key])).length > 1;
  const numeric = data.columns.filter((column) => column.kind !== "text" && has(column.key));
  const costs = numeric.filter((column) => column.log);
  const scores = numeric.filter((column) => !column.log && column.key !== "seeds");
  const qualities = scores.filter((column) => !data.distortions.includes(column.key));
  const colours = makeColours(data.rows);
  const state = { off: new Set(), intervals: true, panels: [] };
  const about = ["gain", data.rate, "psnr"].filter(has).map((key) => columns.get(key));
  const shared = { score: data.score, chance: data.chance, control: data.control, lines: true, colours, views: data.views, about };
  const visible = (row) => !state.off.has(`view ${row.view}`) &&
    (row.family === "identity" || !state.off.has(`family ${row.family}`));

  const legend = makeLegend(data, colours, state, () => state.panels.forEach((panel) => panel()));
  const [grid, trio] = [el("div", { class: "charts" }), el("div", { class: "trio" })];
  host.append(el("h2", {}, "Curves"), legend, grid);

  const keep = (keys) => keys.filter(has).map((key) => columns.get(key));
  const panel = (id, options) => addPanel(options.tall ? grid : trio, id, options, { state, shared, visible, data });
  panel("rate", { heading: "Rate", xs: keep([data.rate]), ys: qualities, tall: true, labels: true, reference: true,
    note: rateNote(data) });
  grid.append(trio);
  panel("distortion", { heading: "Rate and distortion", xs: keep([data.rate]), ys: keep(data.distortions),
    note: "What a person would ask; compare the order of the codecs with that above." });
  panel("speed", { heading: "Throughput", xs: keep(["encode_mps", "load_ips", "train_ips"]), ys: keep([data.score]),
    lines: false, note: "One thread, but for training. Other work on the machine shows here, and only here." });
  panel("dimension", { heading: "Dimension", xs: keep(["dimensions"]), ys: keep([data.score]),
    omit: ["reconstruction", "retrained"],
    note: `Numbers a sample that the model reads; decoded ${data.things} have as many as the originals and are left out.` });
  panel("front", { heading: "Pareto front", xs: costs, ys: scores, tall: true, pareto: true, logs: true,
    note: "Any cost against any score. On the front are the conditions that no other beats on both axes." });
}

function rateNote(data) {
  const kind = data.rows.some((row) => row.interval === "sd over seeds")
    ? "Whiskers: standard deviation over seeds. Seeds share what is hard; whether a condition differs from the control is told by the paired interval: choose it as the height."
    : `Whiskers: 95 % bootstrap interval over the test ${data.things}; the codecs see the same ones, so differences are surer than the whiskers say.`;
  const band = data.control ? ` The band is that of ${data.control}.` : "";
  return `Rate: the whole container. ${kind}${band}`;
}

function addPanel(grid, id, options, { state, shared, visible, data }) {
  const offered = data.rows.filter((row) => !(options.omit || []).includes(row.view));
  const varied = options.xs.some((column) => new Set(offered.map((row) => row[column.key]).filter(Number.isFinite)).size > 1);
  if (!varied || !options.ys.length) return;
  const first = (list, key) => list.find((column) => column.key === key) || list[0];
  const view = { x: first(options.xs, data.rate), y: first(options.ys, data.score) };
  view.xlog = view.x.log;
  view.ylog = false;
  const canvas = el("div", { class: "canvas" });
  const below = el("div", { class: "members" });
  const heading = el("h3", {}, options.heading);
  const logBox = check("log x", view.xlog, (on) => { view.xlog = on; draw(); });
  const pick = (axis, list) => (list.length < 2 ? null : choice(axis === "x" ? "across" : "height",
    list.map((column) => [column.key, column.label]), view[axis].key, (key) => {
      view[axis] = first(list, key);
      if (axis === "x") {
        view.xlog = view.x.log;
        logBox.firstChild.checked = view.xlog;
      }
      draw();
    }));
  const controls = el("div", { class: "controls" }, pick("y", options.ys), pick("x", options.xs), logBox,
    options.logs ? check("log y", false, (on) => { view.ylog = on; draw(); }) : null);
  const figure = el("figure", { id: `chart-${id}`, class: options.tall ? "tall" : "" },
    el("div", { class: "top" }, heading, controls), canvas, below, el("figcaption", {}, options.note));
  grid.append(figure);

  function draw() {
    const rows = offered.filter(visible);
    const front = options.pareto ? paretoFront(rows, view.x, view.y) : null;
    tip.hide();
    drawChart(canvas, { ...shared, ...view, ...options, rows, front, intervals: state.intervals && !front,
      reference: options.reference || view.x.key === data.rate && !front, height: options.tall ? 430 : 310 });
    if (front) {
      below.replaceChildren(el("ol", {}, front.map((row) => el("li", {}, el("b", {}, title(row)),
        ` ${format(view.x, row[view.x.key])} ${view.x.label}, ${format(view.y, row[view.y.key])} ${view.y.label}`))));
    }
  }
  state.panels.push(draw);
  let width = 0;
  new ResizeObserver(() => {
    if (canvas.clientWidth !== width) {
      width = canvas.clientWidth;
      draw();
    }
  }).observe(canvas);
}

/** Toggles for every codec and every view; a double click leaves one alone. */
function makeLegend(data, colours, state, redraw) {
  const buttons = [];
  const update = () => {
    for (const button of buttons) button.setAttribute("aria-pressed", String(!state.off.has(button.dataset.name)));
    redraw();
  };
  const entry = (group, name, swatch) => {
    const key = `${group} ${name}`;
    const button = el("button", {
      type: "button", class: "entry", "data-name": key, "aria-pressed": "true", title: "Double click: only this",
      onclick: () => { state.off.delete(key) || state.off.add(key); update(); },
      ondblclick: () => {
        for (const other of buttons) {
          if (other.dataset.name.startsWith(group)) state.off.add(other.dataset.name);
        }
        state.off.delete(key);
        update();
      },
    }, swatch, name);
    buttons.push(button);
    return button;
  };
  const families = colours.names.map((name) => entry("family", name,
    el("i", { class: "swatch", style: `background:${colours.of(name)}` })));
  const views = data.views.map((name) => entry("view", name, svg("svg", { viewBox: "-8 -8 16 16", "aria-hidden": "true" },
    svg("path", { d: shape(name, 5), class: filled(name) ? "solid" : "open" }))));
  const all = el("button", { type: "button", class: "quiet", onclick: () => { state.off.clear(); update(); } }, "show all");
  return el("div", { class: "legend" },
    el("div", { role: "group", "aria-label": "Codecs" }, el("span", { class: "group" }, "codec"), families),
    el("div", { role: "group", "aria-label": "Views" }, el("span", { class: "group" }, "view"), views, all,
      check("intervals", true, (on) => { state.intervals = on; redraw(); })));
}
