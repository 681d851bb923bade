// Numbers as people read them, by the kind of their column.

const MINUS = "\u2212";
const NONE = "\u2013";

function short(value) {
  const size = Math.abs(value);
  for (const [unit, power] of [["G", 1e9], ["M", 1e6], ["k", 1e3]]) {
    if (size >= power) return figures(value / power) + "\u202f" + unit;
  }
  return figures(value);
}

function figures(value, digits = 3) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 10 ** digits) return Math.round(value).toLocaleString("en").replaceAll(",", "\u202f");
  return size >= 1e-4 ? value.toPrecision(digits) : value.toExponential(digits - 1);
}

function plain(column, value) {
  if (value === null || value === undefined) return NONE;
  switch (column.kind) {
    case "text": return value;
    case "whole": return Math.round(value).toLocaleString("en").replaceAll(",", "\u202f");
    case "short": return short(value);
    case "figures": return figures(value);
    case "percent": return (100 * value).toFixed(column.digits) + "\u202f%";
    case "signed": return (value > 0 ? "+" : "") + value.toFixed(column.digits);
    default: return value.toFixed(column.digits);
  }
}

/** The number of a column with a typographic minus. */
function format(column, value) {
  const text = plain(column, value);
  return column.kind === "text" ? text : text.replace("-", MINUS);
}

/** What belongs to a number: ± its standard deviation over seeds, or the interval of a difference. */
function spread(column, row) {
  if (column.key === "gain" && row.gain_low !== null && row.gain_low !== undefined) {
    return `[${format(column, row.gain_low)}, ${format(column, row.gain_high)}]`;
  }
  const sd = row[column.key + "_sd"];
  return sd === null || sd === undefined ? "" : "\u00b1" + sd.toFixed(column.digits);
}

/** The interval to draw around a number, or null. */
function interval(column, row, score) {
  if (column.key === score && row.low !== undefined) return [row.low, row.high];
  if (column.key === "gain") return row.gain_low === null ? null : [row.gain_low, row.gain_high];
  const sd = row[column.key + "_sd"];
  return sd === null || sd === undefined ? null : [row[column.key] - sd, row[column.key] + sd];
}

function title(row) {
  return row.family === "identity" ? row.view : `${row.view} ${row.codec}`;
}
