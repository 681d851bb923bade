// Failed cells with their sentences, and every setting and version.

function failedSection(data, host) {
  host.append(el("h2", {}, "Failed cells"), el("p", { class: "note" }, "They are missing in everything below; run the command again to retry them."),
    el("ul", {}, data.failed.map((cell) => el("li", {}, el("code", {}, `${cell.view} ${cell.codec}`), `, seed ${cell.seed}: ${cell.error}`))));
}

/** Any value of JSON as names and values. */
function tree(value) {
  if (Array.isArray(value)) return value.every((item) => typeof item !== "object" || item === null) ? value.join(", ") : value.map(tree);
  if (value === null || typeof value !== "object") return String(value);
  return el("dl", { class: "tree" }, Object.entries(value).map(([name, inner]) =>
    el("div", {}, el("dt", {}, name.replaceAll("_", " ")), el("dd", {}, tree(inner)))));
}

function settingsSection(data, host) {
  const { context, environment, conditions } = data.settings;
  const fold = (name, value, open) => el("details", { open }, el("summary", {}, name), tree(value));
  const all = conditions.map((condition) => fold(condition.name, condition.parts));
  const toggle = el("button", { type: "button", class: "quiet", onclick: () => {
    const open = !all.every((item) => item.open);
    all.forEach((item) => { item.open = open; });
  } }, "open or close all");
  host.append(el("h2", {}, "Settings and versions"),
    el("p", { class: "note" }, "A result is found again by a key of everything in its context; change one of them, and it counts as another result."),
    fold("Common to all conditions", context, true), fold("Machine", environment, true),
    el("div", { class: "controls" }, el("h3", {}, "Each condition"), toggle), ...all);
}
