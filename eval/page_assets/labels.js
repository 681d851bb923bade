// Names beside what they name, where there is room; where there is none, the legend has to do.

const LETTER = 6.4; // mean width of a letter in pixels

function around(x, y, w, h) {
  return { x0: x - w, x1: x + w, y0: y - h, y1: y + h };
}

/** What a straight line between two points covers. */
function along(from, to) {
  const count = Math.ceil(Math.hypot(to.x - from.x, to.y - from.y) / 10);
  return Array.from({ length: count }, (_, n) =>
    around(from.x + ((to.x - from.x) * n) / count, from.y + ((to.y - from.y) * n) / count, 2, 2));
}

function meets(a, b) {
  return a.x0 < b.x1 && b.x0 < a.x1 && a.y0 < b.y1 && b.y0 < a.y1;
}

/** The first place where a text meets nothing; it is taken then. A place is {x, y, anchor} of its baseline. */
function findRoom(text, places, box, taken, avoid = []) {
  const width = text.length * LETTER;
  for (const place of places) {
    const x0 = place.x - { start: 0, middle: width / 2, end: width }[place.anchor];
    const frame = { x0, x1: x0 + width, y0: place.y - 10, y1: place.y + 3 };
    const inside = x0 >= box.left && frame.x1 <= box.width && frame.y0 >= 16 && frame.y1 <= box.height - box.bottom;
    if (inside && ![...taken, ...avoid].some((other) => meets(frame, other))) {
      taken.push(frame);
      return place;
    }
  }
  return null;
}

function label(text, place, attributes) {
  return svg("text", { x: place.x, y: place.y, "text-anchor": place.anchor, ...attributes }, text);
}

/** What the lines across are: at the end of a line that is free. */
function referenceNames(lines, box, taken) {
  const right = box.width - box.right - 4;
  return lines.map(({ name, at, view }) => {
    const places = [-5, 13].flatMap((down) => [[box.left + 6, "start"], [right, "end"], [(box.left + right) / 2, "middle"]]
      .map(([x, anchor]) => ({ x, y: at + down, anchor })));
    const place = findRoom(name, places, box, taken) || places[0];
    return svg("g", { class: `reference ${view}`, "aria-hidden": "true" }, label(name, place));
  });
}

/** The name of each curve at one of its ends, in its colour; its view too where a codec has several curves. */
function curveNames(points, box, spec, taken) {
  const series = seriesOf(points).filter((members) => members.length > 1);
  const ways = series.flatMap((members) => members.slice(1).flatMap((point, n) => along(members[n], point)));
  const several = (members) => series.filter((other) => other[0].row.family === members[0].row.family).length > 1;
  return series.map((members) => {
    const { family, view } = members[0].row;
    const text = several(members) && view !== family ? `${family} ${view}` : family;
    const beside = (point) => [
      { x: point.x + 11, y: point.y + 4, anchor: "start" }, { x: point.x, y: point.y - 11, anchor: "middle" },
      { x: point.x, y: point.y + 19, anchor: "middle" }, { x: point.x - 11, y: point.y + 4, anchor: "end" },
      { x: point.x + 9, y: point.y - 7, anchor: "start" }, { x: point.x + 9, y: point.y + 15, anchor: "start" },
    ];
    const places = [...beside(members.at(-1)), ...beside(members[0])];
    const place = findRoom(text, places, box, taken, ways) || findRoom(text, places, box, taken);
    return place && svg("g", { class: "label", "data-series": members[0].series, "aria-hidden": "true",
      style: `color:${spec.colours.of(family)}` }, label(text, place));
  }).filter(Boolean);
}
