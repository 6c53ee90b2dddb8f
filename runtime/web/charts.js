// Lines over the last two minutes, as SVG. Everything is drawn here; nothing is loaded.

const SVG = "http://www.w3.org/2000/svg";
const NARROWEST = 260, HEIGHT = 190;
const LEFT = 44, RIGHT = 12, TOP = 26, BOTTOM = 26;

// The smallest of 1, 2 or 5 times a power of ten at which at most four steps reach `highest`.
function step(highest) {
  const power = 10 ** Math.floor(Math.log10(highest / 4));
  return [1, 2, 5, 10].map((factor) => factor * power).find((size) => size * 4 >= highest);
}

function part(svg, tag, attributes, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  svg.append(element);
}

// A path through [seconds ago, value] points; a second without a value interrupts it.
function path(points, x, y) {
  let before = null;
  return points.map(([ago, value]) => {
    const joined = before !== null && before - ago <= 1.5;
    before = ago;
    return `${joined ? "L" : "M"}${x(ago).toFixed(1)} ${y(value).toFixed(1)}${joined ? "" : "h.01"}`;
  }).join("");
}

export const plot = () => document.createElementNS(SVG, "svg");

/* Draw into a plot. title: above it; unit ms. seconds: width of the time axis. lines: [{kind, points}], where points
   are [seconds ago, value] and kind is a class of the style sheet. limit: null, or a value that must not be passed. */
export function draw(svg, {title, seconds, lines, limit, description}) {
  svg.setAttribute("class", "plot");  // before it is measured
  const width = Math.max(svg.clientWidth, NARROWEST), every = width < 400 ? 60 : 30;
  const values = lines.flatMap((line) => line.points.map(([, value]) => value));
  const highest = Math.max(1, ...values, limit !== null && values.some((v) => v > limit / 3) ? limit : 0);
  const size = step(highest), top = Math.ceil(highest / size) * size;
  const x = (ago) => LEFT + (width - LEFT - RIGHT) * (1 - ago / seconds);
  const y = (value) => HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value / top);
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", description);
  part(svg, "text", {x: 4, y: 14, class: "name"}, title);
  for (let value = 0; value <= top + size / 2; value += size) {
    part(svg, "line", {x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value), class: "grid"});
    part(svg, "text", {x: LEFT - 6, y: y(value) + 4, "text-anchor": "end", class: "tick"}, +value.toPrecision(3));
  }
  for (let ago = 0; ago <= seconds; ago += every) {
    const anchor = ago === 0 ? "end" : "middle";
    const text = ago === 0 ? "now" : `−${ago} s`;
    part(svg, "text", {x: x(ago), y: HEIGHT - 8, "text-anchor": anchor, class: "tick"}, text);
  }
  if (limit !== null && limit <= top) {
    part(svg, "line", {x1: LEFT, x2: width - RIGHT, y1: y(limit), y2: y(limit), class: "limit"});
    part(svg, "text", {x: LEFT + 4, y: y(limit) - 4, class: "tick"}, "oldest allowed");
  }
  for (const line of lines) part(svg, "path", {d: path(line.points, x, y), class: `line ${line.kind}`});
  if (!values.length) {
    part(svg, "text", {x: (LEFT + width) / 2, y: HEIGHT / 2, "text-anchor": "middle", class: "tick"}, "no results yet");
  }
}
