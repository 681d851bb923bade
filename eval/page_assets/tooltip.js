// One box beside the point that is hovered or has the focus.

const tip = {
  show(anchor, heading, lines) {
    const box = byId("tip");
    box.replaceChildren(el("b", {}, heading), el("dl", {}, lines.map(([name, value, more]) =>
      [el("dt", {}, name), el("dd", {}, value, more ? el("small", {}, " " + more) : null)])));
    box.hidden = false;
    const point = anchor.getBoundingClientRect();
    const size = box.getBoundingClientRect();
    const width = document.documentElement.clientWidth;
    const left = Math.min(Math.max(8, point.left + point.width / 2 - size.width / 2), width - size.width - 8);
    const above = point.top - size.height - 10;
    box.style.left = `${left + window.scrollX}px`;
    box.style.top = `${(above > 4 ? above : point.bottom + 10) + window.scrollY}px`;
  },
  hide() {
    byId("tip").hidden = true;
  },
};

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") tip.hide();
});
