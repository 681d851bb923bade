// What the models answer, where that can be looked at: one picture, made with the report.

function answersSection(data, host) {
  const { file, caption } = data.answers;
  host.append(el("h2", {}, "Answers"), el("figure", { class: "answers" },
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Answers" }, el("img", { src: file, alt: caption })),
    el("figcaption", {}, caption)));
}
