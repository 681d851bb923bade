// Tables that sort by their heads and filter by words.

/** A sortable table; `columns` are {key, label, note, numeric, cell(row)}, `rows` any objects. Returns {node, rows}. */
function sortable(columns, rows, caption, changed) {
  const view = { key: null, down: false };
  const body = el("tbody");
  const heads = columns.map((column) => el("th", { scope: "col", class: column.numeric ? "number" : "", "data-key": column.key },
    el("button", { type: "button", title: column.note || null, onclick: () => sort(column) }, column.label,
      el("span", { class: "arrow", "aria-hidden": "true" }))));
  let ordered = rows;
  const fill = () => body.replaceChildren(...ordered.map((row) => el("tr", {}, columns.map((column, n) =>
    el(n === 0 ? "th" : "td", { scope: n === 0 ? "row" : null, class: column.numeric ? "number" : "" },
      column.cell(row))))));
  function sort(column) {
    view.down = view.key === column.key ? !view.down : Boolean(column.numeric);
    view.key = column.key;
    ordered = [...rows].sort((a, b) => compare(a[column.key], b[column.key], view.down));
    heads.forEach((head, n) => {
      const mine = columns[n] === column;
      if (mine) head.setAttribute("aria-sort", view.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    fill();
    if (changed) changed(column.key, view.down, ordered);
  }
  fill();
  const node = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    el("table", {}, el("caption", {}, caption), el("thead", {}, el("tr", {}, heads)), body));
  return { node, sort: (key, down) => {
    const column = columns.find((c) => c.key === key);
    if (!column) return;
    view.key = key;
    view.down = !down;
    sort(column);
  } };
}

/** Missing values come last, whichever way. */
function compare(a, b, down) {
  const missing = (v) => v === null || v === undefined || v === "";
  if (missing(a) || missing(b)) return Number(missing(a)) - Number(missing(b));
  const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
  return down ? -order : order;
}

function tableSection(data, host) {
  const state = { words: "", off: new Set(), shown: new Set(data.columns.filter((c) => c.shown).map((c) => c.key)),
    sort: null, rows: data.rows };
  const place = el("div");
  const count = el("output", { class: "count", "aria-live": "polite" });
  const reach = gainReach(data.rows.filter((row) => row.view !== data.control));

  function update() {
    const words = state.words.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = data.rows.filter((row) => !state.off.has(row.view) && words.every((word) => title(row).toLowerCase().includes(word)));
    const columns = data.columns.filter((column) => state.shown.has(column.key));
    state.rows = rows;
    state.columns = columns;
    const table = sortable(columns.map((column) => ({ ...column, numeric: column.kind !== "text", cell: (row) => cell(column, row, data, reach) })),
      rows, "Every condition: mean over seeds", (key, down, ordered) => { state.sort = [key, down]; state.rows = ordered; });
    if (state.sort) table.sort(...state.sort);
    place.replaceChildren(table.node);
    count.textContent = `${rows.length} of ${data.rows.length} conditions`;
  }

  const filter = el("input", { type: "search", placeholder: "filter, as: latent c12", "aria-label": "Filter the conditions",
    oninput: (event) => { state.words = event.target.value; update(); } });
  const views = data.views.map((name) => check(name, true, (on) => { on ? state.off.delete(name) : state.off.add(name); update(); }));
  const chooser = el("details", { class: "chooser" }, el("summary", {}, "columns"), el("div", { class: "choices" },
    data.columns.filter((column) => column.key !== "codec").map((column) => check(column.label, column.shown, (on) => {
      on ? state.shown.add(column.key) : state.shown.delete(column.key);
      update();
    }))));
  host.append(el("h2", {}, "Table"),
    el("div", { class: "controls" }, filter, el("span", { class: "views" }, views), chooser, count), place,
    el("p", { class: "fine" }, tableNote(data)), downloads(data, state));
  update();
}

function tableNote(data) {
  const kept = `kept: (score \u2212 chance) / (${data.ceiling} \u2212 chance), chance ` + format({ kind: "fixed", digits: 3 }, data.chance) + ".";
  if (!data.control) return kept;
  return `${kept} against ${data.control}: paired difference on the same test ${data.things} with its 95 % bootstrap interval; ` +
    "\u25b2 and \u25bc stand only where the interval excludes zero. Many comparisons are made at once: of twenty without any difference, one is marked by chance.";
}

/** The range that the small intervals of the table are drawn over; zero is in it. */
function gainReach(rows) {
  const [low, high] = extent([0, 1e-9, ...rows.flatMap((row) => [row.gain_low, row.gain_high]).filter(Number.isFinite)]);
  return (value) => 3 + (84 * (value - low)) / (high - low);
}

function cell(column, row, data, reach) {
  if (column.key === "codec") return el("code", {}, row.codec);
  if (column.key === "gain") return row.view === data.control ? "" : gainCell(column, row, reach);
  const more = spread(column, row);
  return [format(column, row[column.key]), more ? el("small", {}, " " + more) : null];
}

/** The difference, a mark where it is one, and its interval drawn around zero. */
function gainCell(column, row, reach) {
  if (!Number.isFinite(row.gain)) return NONE;
  const kind = { 1: "better", "-1": "worse" }[row.mark] || "";
  const sign = { 1: "\u25b2", "-1": "\u25bc" }[row.mark] || "";
  return el("span", { class: `gain ${kind}`, title: spread(column, row) },
    el("span", { class: "mark", role: sign ? "img" : null, "aria-label": kind || null }, sign), format(column, row.gain),
    svg("svg", { viewBox: "0 -6 90 12", role: "img", "aria-label": `interval ${spread(column, row)}` },
      svg("line", { x1: reach(0), x2: reach(0), y1: -6, y2: 6, class: "zero" }),
      svg("line", { x1: reach(row.gain_low), x2: reach(row.gain_high), y1: 0, y2: 0, class: "range" }),
      svg("circle", { cx: reach(row.gain), cy: 0, r: 2.6 })));
}

/** Tables that lay in the run's folder; X, X_sd, X_low, X_high and X_mark become one column. */
function extraSection(data, host) {
  data.tables.forEach((table) => {
    const number = (text) => (text !== "" && Number.isFinite(Number(text)) ? Number(text) : text);
    const rows = table.rows.map((cells) => Object.fromEntries(cells.map((text, n) => [table.columns[n], number(text)])));
    const part = (name) => name.replace(/_(sd|low|high|mark)$/, "");
    const shown = table.columns.filter((name) => part(name) === name || !table.columns.includes(part(name)));
    const columns = shown.map((name) => {
      const numeric = rows.some((row) => typeof row[name] === "number") && rows.every((row) => typeof row[name] !== "string" || row[name] === "");
      return { key: name, label: name.replaceAll("_", " "), numeric, cell: (row) => extraCell(row, name) };
    });
    const csv = () => csvOf(table.columns, table.rows);
    host.append(el("h2", { id: `table-${table.name}` }, table.title), ...table.notes.map((note) => el("p", { class: "note" }, note)),
      sortable(columns, rows, table.title).node, el("p", { class: "downloads" }, download(`${table.name}.csv`, "text/csv", "CSV", csv)));
  });
}

function extraCell(row, name) {
  const text = (value) => (typeof value !== "number" ? value ?? "" : (String(value).length > 6 ? brief(value) : String(value)).replace("-", MINUS));
  const [sd, low, high, mark] = ["sd", "low", "high", "mark"].map((end) => row[`${name}_${end}`]);
  const range = typeof low === "number" ? ` [${text(low)}, ${text(high)}]` : typeof sd === "number" ? ` \u00b1${text(sd)}` : "";
  return [text(row[name]), mark ? el("b", { title: "the interval excludes zero" }, mark) : null, el("small", {}, range)];
}

/** Four digits, the zeros at the end left out. */
function brief(value) {
  const size = Math.abs(value);
  return size >= 1e4 || (size < 1e-3 && size > 0) ? figures(value) : String(Number(value.toFixed(size >= 100 ? 1 : size >= 10 ? 2 : 4)));
}
