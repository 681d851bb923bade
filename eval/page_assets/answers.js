// What the models answer, where that can be looked at or listened to.

function answersSection(data, host) {
  const { file, caption, sounds } = data.answers;
  if (sounds) return soundAnswers(data, host);
  host.append(el("h2", {}, "Answers"), el("figure", { class: "answers" },
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Answers" }, el("img", { src: file, alt: caption })),
    el("figcaption", {}, caption)));
}
