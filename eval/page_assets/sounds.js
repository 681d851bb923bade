// Sound: players with the spectrogram of what they play, of test clips through each codec and of stems.

/** A spectrogram with its axes, its player, and the place that is heard; a click on it goes there. */
function player(item, name, lines, seconds, scales) {
  const cursor = el("i", { class: "cursor", "aria-hidden": "true", hidden: true });
  const audio = el("audio", { controls: true, preload: "metadata", src: item.file, "aria-label": name,
    onplay: () => document.querySelectorAll("audio").forEach((other) => { if (other !== audio) other.pause(); }),
    ontimeupdate: () => {
      cursor.hidden = false;
      cursor.style.left = `${(100 * audio.currentTime) / (audio.duration || seconds)}%`;
    } });
  const seek = (event) => {
    const frame = event.currentTarget.getBoundingClientRect();
    audio.currentTime = ((event.clientX - frame.left) / frame.width) * (audio.duration || seconds);
  };
  const tick = ([text, place]) => el("span", { style: `bottom:${(100 * place).toFixed(2)}%` }, text);
  return el("figure", { class: "sound" },
    el("div", { class: "said" }, lines),
    el("div", { class: "named" }, "\u2191 frequency, kHz"),
    el("div", { class: "plot" }, el("div", { class: "hertz", "aria-hidden": "true" }, scales.ticks.map(tick)),
      el("div", { class: "picture", onclick: seek }, el("img", { src: item.spectrogram, alt: `Spectrogram: ${name}` }), cursor)),
    el("div", { class: "seconds" }, el("span", {}, "0"), el("span", {}, round(seconds / 2)),
      el("span", {}, `${round(seconds)}, time, s \u2192`)),
    audio);
}

/** What the colours mean, from the lowest to the loudest. */
function colourKey(scales) {
  return el("div", { class: "key" }, el("span", {}, `${scales.floor} dB`.replace("-", MINUS)),
    el("i", { style: `background:linear-gradient(90deg, ${scales.colours.join(", ")})` }), el("span", {}, "0 dB, a full-scale sine"));
}

function nearness(entry) {
  if (entry.lossless) return "lossless";
  return entry.si_sdr === null ? "silence" : `SI-SDR ${decibels(entry.si_sdr)}`;
}

function round(seconds) {
  return String(Number(seconds.toFixed(2)));
}

function decibels(value) {
  return `${value.toFixed(1)} dB`.replace(/^-(?!0\.0 )/, MINUS).replace("-", "");
}

function soundsSection(data, host) {
  const state = { clip: 0 };
  const [controls, grid, latents] = [el("div", { class: "controls" }), el("div", { class: "players" }), el("div", { class: "latents" })];
  const note = el("p", { class: "fine" });
  host.append(el("h2", {}, "Sounds"), controls, colourKey(data.sound), grid, note, latents);

  function draw() {
    const clip = data.gallery[state.clip];
    const named = data.gallery.map((item, n) => [String(n), `test clip ${item.index}` + (item.label === null ? "" : `, class ${item.label}`)]);
    const read = (item) => (item.right ? el("span", { class: item.right[0] === item.right[1] ? "ok" : "not" }, right(item.right)) : null);
    controls.replaceChildren(named.length > 1
      ? choice("clip", named, String(state.clip), (value) => { state.clip = Number(value); draw(); }) : el("span", {}, named[0][1]));
    const coded = clip.codecs.filter((entry) => entry.file).sort((a, b) => a.kbps - b.kbps);
    grid.replaceChildren(player(clip, "original", [el("b", {}, "original"), read(clip)], clip.shown, data.sound),
      ...coded.map((entry) => player(entry, entry.codec, [el("code", {}, entry.codec),
        el("span", {}, `${figures(entry.kbps)} kbit/s`), el("span", {}, nearness(entry)), read(entry)], clip.shown, data.sound)));
    const cut = clip.shown < clip.seconds ? `The first ${round(clip.shown)} of ${round(clip.seconds)} s; rate and SI-SDR are of the whole clip. ` : "";
    const channels = clip.channels > 2 ? `Heard is the first of ${clip.channels} channels. ` : "";
    const broken = clip.codecs.filter((entry) => entry.error).map((entry) => `${entry.codec} failed: ${entry.error} `);
    note.textContent = `${cut}${channels}Stored without loss, 16 bits: what is heard is what the codec did. ${broken.join("")}`;
  }

  draw();
  soundLatents(data.gallery, latents);
}

function soundLatents(clips, host) {
  const entries = clips.flatMap((clip) => clip.codecs).filter((entry) => entry.latent);
  if (!entries.length) return;
  host.append(el("h3", {}, "What the model reads of them: latents"),
    el("p", { class: "note" }, "The quantized symbols of the first clip: a row a channel, time to the right, each row around its median (white) and scaled to its own range; blue is negative, red positive."),
    el("div", { class: "sheets wide" }, entries.map((entry) => el("figure", {},
      el("img", { src: entry.latent, alt: `Latents of ${entry.codec}: ${entry.channels} channels` }),
      el("figcaption", {}, el("code", {}, entry.codec), ` ${entry.channels} channels, one position for ${entry.patch} samples, ${figures(entry.kbps)} kbit/s`)))));
}

/** A mixture, its true stems, and what each condition takes for them. */
function soundAnswers(data, host) {
  const { mixture, stems, conditions, shown, start, index } = data.answers.sounds;
  const gain = (stem, number) => {
    if (stem.si_sdr === null) return "silent here";
    const before = stems[number].si_sdr;
    const more = stem.si_sdr - before;
    return `SI-SDR ${decibels(stem.si_sdr)}` +
      (before === null ? "" : `, ${decibels(Math.abs(more))} ${more < 0 ? "below" : "above"} the mixture's`);
  };
  const told = (condition) => [el("b", {}, condition.view), el("code", {}, condition.codec), el("span", {}, `${figures(condition.kbps)} kbit/s`)];
  host.append(el("h2", {}, "Answers"),
    el("p", { class: "note" }, `${round(shown)} s of test clip ${index}, from ${round(start)} s on, taken apart by the models of the first seed, in one channel. SI-SDR is that of this excerpt.`),
    colourKey(data.sound),
    el("div", { class: "players" }, player(mixture, "mixture", [el("b", {}, "mixture"), el("span", {}, "what the models are given")], shown, data.sound)),
    ...stems.flatMap((stem, number) => [el("h3", {}, stem.name), el("div", { class: "players" },
      player(stem, `${stem.name}, true`, [el("b", {}, "truth"), el("span", {}, stem.si_sdr === null ? "silent here" : `the mixture's SI-SDR is ${decibels(stem.si_sdr)}`)], shown, data.sound),
      ...conditions.map((condition) => player(condition.stems[number], `${stem.name}, ${condition.view} ${condition.codec}`,
        [told(condition), el("span", {}, gain(condition.stems[number], number))], shown, data.sound)))]));
}
