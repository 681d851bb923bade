// The page, from its data.

function readTheme() {
  try {
    return localStorage.getItem("cml-theme");
  } catch {
    return null; // a browser may refuse storage to files
  }
}

function themeButton() {
  const button = byId("theme");
  const dark = () => (document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const show = () => {
    button.textContent = dark() ? "Light" : "Dark";
    button.setAttribute("aria-pressed", String(dark()));
    button.setAttribute("aria-label", `Change to ${dark() ? "light" : "dark"} colours`);
  };
  const stored = readTheme();
  if (stored) document.documentElement.dataset.theme = stored;
  button.addEventListener("click", () => {
    const theme = dark() ? "light" : "dark";
    document.documentElement.dataset.theme = theme;
    try {
      localStorage.setItem("cml-theme", theme);
    } catch {
      // then it lasts as long as the page
    }
    show();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  show();
}

function head(data) {
  byId("facts").append(...data.facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
  byId("findings").append(...data.findings.map(({ value, label, detail }) =>
    el("div", { class: "finding" }, el("b", {}, value), el("span", {}, label), el("small", {}, detail))));
  if (data.findings.length) {
    byId("flatter").textContent = "Picked from many after the fact, so a little flattered: the table has every condition and its interval.";
  }
  byId("command").textContent = data.command;
  byId("made").hidden = !data.command;
}

function main() {
  const data = JSON.parse(byId("data").textContent);
  themeButton();
  head(data);
  const sections = [
    ["failed", "Failed", data.failed.length, failedSection],
    ["curves", "Curves", data.rows.length, chartsSection],
    ["table", "Table", data.rows.length, tableSection],
    ["extra", "Comparisons", data.tables.length, extraSection],
    ["gallery", data.sound ? "Sounds" : "Pictures", data.gallery.some((item) => item.codecs.some((entry) => entry.file)),
      data.sound ? soundsSection : gallerySection],
    ["answers", "Answers", data.answers, answersSection],
    ["settings", "Settings", true, settingsSection],
  ];
  for (const [id, name, wanted, fill] of sections) {
    const host = byId(id);
    host.hidden = !wanted;
    if (!wanted) continue;
    fill(data, host);
    byId("nav").append(el("a", { href: `#${id}` }, name));
  }
  addEventListener("beforeprint", () => document.querySelectorAll("#made").forEach((item) => { item.open = true; }));
}

main();
