// Elements, made in one expression.

const SVG = "http://www.w3.org/2000/svg";

function build(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

function el(tag, attributes, ...children) {
  return build(document.createElement(tag), attributes, children);
}

function svg(tag, attributes, ...children) {
  return build(document.createElementNS(SVG, tag), attributes, children);
}

function byId(id) {
  return document.getElementById(id);
}

/** A select box with its label; `options` are [value, text] or {label, options} for groups. */
function choice(label, options, value, onchange) {
  const item = ([key, text]) => el("option", { value: key, selected: key === value }, text);
  const select = el("select", { onchange: (event) => onchange(event.target.value) },
    options.map((o) => (Array.isArray(o) ? item(o) : el("optgroup", { label: o.label }, o.options.map(item)))));
  return el("label", { class: "choice" }, el("span", {}, label), select);
}

function check(label, value, onchange) {
  return el("label", { class: "check" },
    el("input", { type: "checkbox", checked: value, onchange: (event) => onchange(event.target.checked) }), label);
}
