// A test picture through each codec: two pictures on top of each other, and a handle that uncovers one of them.

function gallerySection(data, host) {
  const state = { picture: 0, left: "original", right: null, split: 50 };
  const frame = el("div", { class: "compare" });
  const list = el("div", { class: "panels", role: "group", "aria-label": "Right side" });
  const controls = el("div", { class: "controls" });
  const latents = el("div", { class: "latents" });
  const note = el("p", { class: "fine" });
  const picture = () => data.gallery[state.picture];
  const panels = () => picture().codecs.filter((entry) => entry.file);
  const entryOf = (name) => panels().find((entry) => entry.codec === name);
  state.right = middle(panels());
  host.append(el("h2", {}, "Pictures"), controls, el("div", { class: "pair" }, frame, list), note, latents);

  function drawFrame() {
    const before = state.left === "original" ? picture().file : entryOf(state.left).file;
    const after = entryOf(state.right);
    const [height, width] = picture().shown;
    const top = el("img", { src: before, alt: `${state.left}, left of the handle`, class: "before", width, height });
    const line = el("span", { class: "handle", "aria-hidden": "true" });
    const place = (value) => {
      state.split = value;
      top.style.clipPath = `inset(0 ${100 - value}% 0 0)`;
      line.style.left = `${value}%`;
    };
    const slider = el("input", { type: "range", min: 0, max: 100, step: 1, value: state.split,
      "aria-label": `Handle between ${state.left} and ${state.right}`, oninput: (event) => place(Number(event.target.value)) });
    frame.style.setProperty("--w", String(width));
    frame.style.setProperty("--h", String(height));
    frame.replaceChildren(el("img", { src: after.file, alt: `${state.right}, right of the handle`, width, height }), top, line,
      slider, el("span", { class: "tag" }, state.left), el("span", { class: "tag right" }, state.right));
    place(state.split);
  }

  function drawList() {
    list.replaceChildren(...panels().map((entry) => el("button", { type: "button", class: "panel",
      "aria-pressed": String(entry.codec === state.right), onclick: () => { state.right = entry.codec; draw(); } },
    el("code", {}, entry.codec), el("span", {}, `${entry.bpp.toFixed(3)} bpp`),
    el("span", {}, entry.psnr === null ? "lossless" : `${entry.psnr.toFixed(1)} dB`),
    entry.right ? el("span", { class: entry.right[0] === entry.right[1] ? "ok" : "not" }, right(entry.right)) : null)));
  }

  function drawControls() {
    const pictures = data.gallery.map((item, n) => [String(n), `test picture ${item.index}` + (item.label === null ? "" : `, class ${item.label}`)]);
    controls.replaceChildren(
      pictures.length > 1 ? choice("picture", pictures, String(state.picture), (value) => { state.picture = Number(value); repair(); draw(); }) : "",
      choice("left of the handle", [["original", "original"], ...panels().map((entry) => [entry.codec, entry.codec])], state.left,
        (value) => { state.left = value; drawFrame(); }));
  }

  function repair() {
    if (!entryOf(state.right)) state.right = middle(panels());
    if (state.left !== "original" && !entryOf(state.left)) state.left = "original";
  }

  function drawNote() {
    const { size, shown, right: read, codecs } = picture();
    const cut = size[0] === shown[0] && size[1] === shown[1] ? "" : `The middle ${shown[1]}x${shown[0]} of ${size[1]}x${size[0]}; rate and PSNR are of the whole. `;
    const original = read ? `The original is ${right(read)}. ` : "";
    const broken = codecs.filter((entry) => entry.error).map((entry) => `${entry.codec} failed: ${entry.error} `);
    note.textContent = `${cut}${original}Stored without loss: what is seen is what the codec did. ${broken.join("")}`;
  }

  function draw() {
    drawFrame();
    drawList();
    drawControls();
    drawNote();
  }

  draw();
  drawLatents(data.gallery.flatMap((item) => item.codecs).filter((entry) => entry.latent), latents);
}

/** A codec from the lower middle of the rates: where there is something to see. */
function middle(entries) {
  const sorted = [...entries].sort((a, b) => a.bpp - b.bpp);
  return sorted.length ? sorted[Math.floor((sorted.length - 1) / 3)].codec : null;
}

function right([count, seeds]) {
  if (seeds === 1) return count ? "read right" : "read wrong";
  return `read right by ${count} of ${seeds}`;
}

function drawLatents(entries, host) {
  if (!entries.length) return;
  host.append(el("h3", {}, "What the model reads of them: latents"),
    el("p", { class: "note" }, "The quantized symbols of the first picture, channel beside channel, each around its median (white) and scaled to its own range; blue is negative, red positive."),
    el("div", { class: "sheets" }, entries.map((entry) => el("figure", {},
      el("img", { src: entry.latent, alt: `Latents of ${entry.codec}: ${entry.channels} channels of ${entry.grid.join(" by ")}` }),
      el("figcaption", {}, el("code", {}, entry.codec), ` ${entry.channels} channels of ${entry.grid[1]}x${entry.grid[0]}, ${entry.bpp.toFixed(3)} bpp`)))));
}
