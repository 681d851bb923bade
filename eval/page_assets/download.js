// The table as files, made in the page.

function download(name, type, label, make) {
  const link = el("a", { href: "#", download: name, class: "button", onclick: () => {
    const url = URL.createObjectURL(new Blob([make()], { type: `${type};charset=utf-8` }));
    link.href = url;
    setTimeout(() => URL.revokeObjectURL(url), 60000);
  } }, label);
  return link;
}

function csvOf(names, rows) {
  const quote = (value) => {
    const text = value === null || value === undefined ? "" : String(value);
    return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return [names, ...rows].map((cells) => cells.map(quote).join(",")).join("\n") + "\n";
}

/** All columns of the rows, intervals and deviations among them, at full precision. */
function wholeCsv(data, rows) {
  const names = [...new Set(data.rows.flatMap(Object.keys))].filter((name) => name !== "family" && name !== "mark");
  return csvOf(names, rows.map((row) => names.map((name) => row[name])));
}

/** Everything but the pictures and sounds. */
function wholeJson(data, rows) {
  const { gallery, answers, ...rest } = data;
  return JSON.stringify({ ...rest, rows }, null, 1) + "\n";
}

function latex(data, rows, columns) {
  const escape = (text) => String(text).replace(/[\\&%$#_{}~^]/g, (sign) =>
    ({ "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}" })[sign] || "\\" + sign)
    .replaceAll(MINUS, "$-$").replaceAll("\u202f", "\\,").replaceAll(NONE, "--");
  const cell = (column, row) => {
    if (column.key === "gain" && row.view === data.control) return "";
    const sd = spread(column, row);
    const text = escape(format(column, row[column.key]));
    const more = sd.startsWith("\u00b1") ? ` $\\pm$ ${escape(sd.slice(1))}` : sd ? ` ${escape(sd)}` : "";
    const mark = column.key === "gain" && row.mark ? "$^{*}$" : "";
    return column.key === "codec" ? `\\texttt{${text}}` : text + mark + more;
  };
  const line = (cells) => cells.join(" & ") + " \\\\";
  return ["% needs \\usepackage{booktabs}", "\\begin{table}", "\\centering",
    `\\caption{${escape(data.title)}.${data.control ? " $^{*}$: the 95\\,\\% interval of the paired difference excludes zero." : ""}}`,
    `\\begin{tabular}{${columns.map((column) => (column.kind === "text" ? "l" : "r")).join("")}}`, "\\toprule",
    line(columns.map((column) => escape(column.label))), "\\midrule",
    ...rows.map((row) => line(columns.map((column) => cell(column, row)))),
    "\\bottomrule", "\\end{tabular}", "\\end{table}", ""].join("\n");
}

function downloads(data, state) {
  return el("p", { class: "downloads" }, el("span", {}, "Download the rows shown"),
    download("comparison.csv", "text/csv", "CSV", () => wholeCsv(data, state.rows)),
    download("comparison.json", "application/json", "JSON", () => wholeJson(data, state.rows)),
    download("comparison.tex", "text/x-tex", "LaTeX", () => latex(data, state.rows, state.columns)));
}
