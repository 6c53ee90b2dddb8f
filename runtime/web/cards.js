// One camera on the page: its picture, state and figures; and how figures are written.

const SNAPSHOT_MS = 1000, RETRY_MS = 3000;
const TONES = {running: "good", failed: "bad", stopped: "off"};
let number = 0;

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// Sets a text only where it is a new one, so that selections and screen readers are left in peace.
export function tell(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function facts(list, pairs) {
  const shown = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  while (list.children.length > shown.length) list.lastChild.remove();
  shown.forEach(([name, value], index) => {
    const group = list.children[index] ?? list.appendChild(make("div", {}, make("dt"), make("dd")));
    tell(group.firstChild, name);
    tell(group.lastChild, String(value));
  });
}

export const ms = (value, digits = 0) => value === null || value === undefined ? "–" : `${value.toFixed(digits)} ms`;
export const fine = (value) => value === undefined ? "–" : value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0);
const percent = (share) => `${(100 * share).toFixed(1)} %`;
export const colour = ([red, green, blue]) => `rgb(${red} ${green} ${blue})`;
const total = (counts) => Object.values(counts).reduce((sum, count) => sum + count, 0);

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 60) return `${seconds.toFixed(0)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor(seconds % 3600 / 60)} min`;
}

export function badge(element, text, tone) {
  tell(element, text);
  element.className = `state ${tone}`;
}

/* One camera: its picture, state and figures. The first LIVE cameras are streams, the others pictures once a second. */
export class Card {
  constructor(camera, live) {
    this.name = camera.name;
    this.live = live;
    this.timer = null;
    this.reachable = true;
    this.image = make("img", {alt: `${camera.name}: labels over the picture`, width: 640, height: 360});
    this.state = make("span", {class: "state"});
    this.stale = make("div", {class: "veil", hidden: ""}, make("strong"), make("span"));
    this.facts = make("dl", {class: "facts"});
    this.conditions = make("p", {class: "conditions"});
    this.message = make("p", {class: "message"});
    this.shares = make("div", {class: "shares", role: "img"});
    this.enlarge = make("button", {type: "button", "aria-pressed": "false"}, "Enlarge");
    this.view = make("div", {class: "view"}, this.image, this.stale);
    this.element = make("article", {class: "card", "aria-labelledby": `camera-${camera.name}`},
      make("div", {class: "top"}, make("h3", {id: `camera-${camera.name}`}, camera.name), this.state, this.enlarge),
      this.view, this.facts, this.conditions, this.message, this.shares);
    this.enlarge.addEventListener("click", () => {
      const large = this.element.classList.toggle("large");
      this.enlarge.setAttribute("aria-pressed", String(large));
      tell(this.enlarge, large ? "Reduce" : "Enlarge");
    });
    this.image.addEventListener("error", () => this.again(RETRY_MS, false));
    this.image.addEventListener("load", () => this.live || this.again(SNAPSHOT_MS, false));
    this.begun = false;
  }

  // The engine is loaded; before, there are no pictures to ask for.
  begin() {
    if (this.begun) return;
    this.begun = true;
    this.play();
  }

  play() {
    clearTimeout(this.timer);
    if (document.hidden || !this.reachable || !this.begun) return;
    const address = this.live ? `/stream/${this.name}.mjpg` : `/snapshot/${this.name}.jpg`;
    this.image.src = `${address}?${++number}`;
  }

  pause() {
    clearTimeout(this.timer);
    this.image.removeAttribute("src");
  }

  // A stream that is refused, because all are taken, goes on as pictures once a second.
  again(delay, live) {
    clearTimeout(this.timer);
    this.live = live;
    this.timer = setTimeout(() => this.play(), delay);
  }

  update(camera, classes) {
    badge(this.state, camera.state, TONES[camera.state] ?? "waiting");
    const fresh = this.reachable && !camera.stale;
    this.stale.hidden = fresh;
    this.view.classList.toggle("stale", !fresh);
    tell(this.stale.firstChild, this.reachable ? (camera.age_ms === null ? "NO PICTURE" : "STALE") : "NO CONNECTION");
    tell(this.stale.lastChild, this.reachable ? camera.reason : "this page does not reach the run");
    if (camera.size) this.view.style.aspectRatio = `${camera.size[1]} / ${camera.size[0]}`;
    facts(this.facts, [
      ["Frame age", fresh && camera.age ? `${ms(camera.age.p50)}, p99 ${ms(camera.age.p99)}` : null],
      ["Last valid picture", fresh || camera.age_ms === null ? null : `${duration(camera.age_ms / 1000)} old`],
      ["Rate", camera.fps ? `${camera.fps.toFixed(1)} fps` : null],
      ["Results", `${camera.results.valid} valid, ${camera.results.invalid} not`],
      ["Dropped", total(camera.drops)],
      ["Reconnects", camera.reconnects],
      ["In this state", duration(camera.since_s)],
      ["Picture", camera.size ? `${camera.size[0]}x${camera.size[1]}` : null],
      ["Decoder", camera.decoder],
      ["Confidence", camera.mean_confidence === null ? null : percent(camera.mean_confidence)],
      ["Drivable", camera.drivable === null || camera.drivable === undefined ? null : percent(camera.drivable)],
    ]);
    this.conditions.replaceChildren(...camera.health.map((name) =>
      make("span", {class: "condition"}, name.replaceAll("_", " "))));
    tell(this.message, camera.state === "running" ? "" : [camera.cause, camera.message].filter(Boolean).join(": "));
    this.drawShares(camera.class_shares, classes);
  }

  drawShares(shares, classes) {
    const present = classes.filter((one) => shares[one.name] > 0.002);
    this.shares.hidden = !present.length;
    this.shares.setAttribute("aria-label", "Shares of the picture: " +
      present.map((one) => `${one.name} ${percent(shares[one.name])}`).join(", "));
    this.shares.replaceChildren(...present.map((one) => {
      const piece = make("span", {title: `${one.name} ${percent(shares[one.name])}`});
      piece.style.background = colour(one.colour);
      piece.style.width = percent(shares[one.name]).replace(" ", "");
      return piece;
    }));
  }
}

