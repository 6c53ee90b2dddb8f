// The live page: asks the server how the run is, once a second, and shows it. It only reads.

import {Card, badge, colour, duration, facts, fine, make, ms, tell} from "/cards.js";
import {draw, plot} from "/charts.js";

const STATUS_MS = 1000, HISTORY_MS = 2000;
const LIVE = 4;  // browsers hold six connections to a server: four streams leave two for everything else
const STAGES = ["wait", "pre", "infer", "labels", "post", "publish"];

const TEXTS = new Set(["Camera", "Outlet", "State", "What", "Message"]);  // columns of words, not of numbers

const $ = (id) => document.getElementById(id);
const cards = new Map();
let spoken = "", reachable = true, admitted = false, history = null, status = null;

function table(name, heads, rows, empty) {
  const cell = (tag, value, attributes, head) =>
    make(tag, TEXTS.has(head) ? {...attributes, class: "text"} : attributes, String(value));
  $(`${name}-head`).replaceChildren(make("tr", {}, ...heads.map((head) => cell("th", head, {scope: "col"}, head))));
  const body = rows.map(([first, ...rest]) => make("tr", {}, cell("th", first, {scope: "row"}),
    ...rest.map((value, index) => cell("td", value, {}, heads[index + 1]))));
  if (!body.length) body.push(make("tr", {}, make("td", {colspan: heads.length, class: "absent text"}, empty)));
  $(`${name}-body`).replaceChildren(...body);
}

function showCameras(cameras, classes) {
  for (const camera of cameras) {
    if (!cards.has(camera.name)) {
      cards.set(camera.name, new Card(camera, cards.size < LIVE));
      $("cards").append(cards.get(camera.name).element);
    }
    cards.get(camera.name).update(camera, classes);
    if (status.engine) cards.get(camera.name).begin();
  }
  const now = cameras.map((camera) =>
    `${camera.name} is ${camera.stale ? `stale: ${camera.reason}` : "live"}`).join(". ");
  const steady = now.replace(/\d+(\.\d+)? m?s/g, "");
  if (steady !== spoken) tell($("spoken"), now);
  spoken = steady;
}

function showRun() {
  const engine = status.engine;
  badge($("ready"), status.ready ? "ready" : "not ready", status.ready ? "good" : "bad");
  tell($("trouble"), status.ready ? "" : status.reason);
  $("trouble").hidden = status.ready;
  const throttled = Object.entries(status.throttle).filter(([, one]) => one.active).map(([cause]) => cause);
  facts($("run"), [
    ["Engine", engine ? `${engine.name}, ${engine.precision}` : "loading"],
    ["Artefact", engine?.artefact],
    ["Network input", engine?.input_size?.join("x")],
    ["Running for", duration(status.uptime_s)],
    ["Streams watched", status.streams],
    ["Slowed down by", throttled.join(", ")],
  ]);
  const classes = engine ? engine.classes : [];
  if ($("classes").children.length !== classes.length) $("classes").replaceChildren(...classes.map((one) => {
    const chip = make("span", {class: "chip"});
    chip.style.background = colour(one.colour);
    return make("li", {}, chip, one.drivable ? `${one.name} (drivable)` : one.name);
  }));
  return classes;
}

function showTables(cameras) {
  const stages = stagesOf(cameras.map((camera) => camera.stages));
  const three = (one) => one ? [one.p50, one.p90, one.p99].map(fine).join(" / ") : "–";
  table("times", ["Camera", "frame age", ...stages, "Results"], cameras.map((camera) => [
    camera.name, three(camera.age), ...stages.map((stage) => three(camera.stages[stage])), camera.age?.samples ?? 0,
  ]), "No cameras");
  const causes = [...new Set(cameras.flatMap((camera) => Object.keys(camera.drops)))].sort();
  table("drops", ["Camera", ...causes, "Crashes", "Clock steps", "Bad stamps", "Message"], cameras.map((camera) => [
    camera.name, ...causes.map((cause) => camera.drops[cause] ?? 0), camera.crashes ?? 0, camera.clock_steps ?? 0,
    camera.stamps_invalid ?? 0, camera.message]), "No cameras");
  table("outlets", ["Outlet", "State", "Delivered", "Dropped", "Errors", "Message"], status.outlets.map((outlet) => [
    outlet.name, outlet.state ?? "", outlet.delivered ?? 0,
    Object.entries(outlet.drops ?? {}).map(([cause, count]) => `${count} ${cause}`).join(", ") || 0,
    outlet.errors ?? 0, outlet.message]), "Nothing is written or shown beside this page");
}

const stagesOf = (series) => {
  const found = new Set(series.flatMap((one) => Object.keys(one)));
  return [...STAGES.filter((stage) => found.delete(stage)), ...[...found].sort()];
};

function showPlots() {
  const mark = Number(document.querySelector("input[name=mark]:checked").value);
  const cameras = Object.entries(history.cameras), root = $("plots");
  const stages = stagesOf(cameras.map(([, series]) => series)).filter((stage) => stage !== "age");
  if ($("stages").children.length !== stages.length) $("stages").replaceChildren(...stages.map((stage) =>
    make("li", {}, make("span", {class: `swatch ${stage}`}), stage)));
  if (root.children.length !== 3 * cameras.length) {
    root.replaceChildren(...cameras.flatMap(([name]) => [make("h3", {}, name), plot(), plot()]));
  }
  cameras.forEach(([name, series], index) => {
    const ages = series.age ?? [], last = ages[ages.length - 1];
    const points = (of, column) => of.map((row) => [row[0], row[column]]);
    const limit = status.cameras.find((camera) => camera.name === name)?.max_age_ms ?? null;
    draw(root.children[3 * index + 1], {
      title: "Frame age, ms", seconds: history.seconds, limit,
      lines: [{kind: "p50", points: points(ages, 1)}, {kind: "p99", points: points(ages, 2)}],
      description: `Frame age of ${name}: ` + (last ? `now p50 ${ms(last[1])}, p99 ${ms(last[2])}` : "no results yet"),
    });
    draw(root.children[3 * index + 2], {
      title: `Stages, p${mark === 1 ? 50 : 99}, ms`, seconds: history.seconds, limit: null,
      lines: stages.map((stage) => ({kind: stage, points: points(series[stage] ?? [], mark)})),
      description: `Times of the stages of ${name}; the table below has their figures`,
    });
  });
}

function showEvents(events) {
  table("events", ["Time", "Camera", "What", "State", "Message"], events.map((event) => [
    new Date(event.wall_ms).toLocaleTimeString(), event.camera, event.kind.replaceAll("_", " "), event.state,
    [event.cause, event.message, Object.entries(event.values).map(([name, value]) => `${name} ${value}`).join(", ")]
      .filter(Boolean).join(": ")]), "Nothing has happened yet");
}

async function ask(path, headers = {}) {
  const answer = await fetch(path, {headers, cache: "no-store", signal: AbortSignal.timeout(5000)});
  if (answer.status === 401) throw new Refused();
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

class Refused extends Error {}

function askForToken() {
  badge($("ready"), "token needed", "waiting");
  $("content").hidden = true;
  if ($("login").hidden) {
    $("login").hidden = false;
    $("token").focus();
  }
}

function setReachable(now) {
  if (now === reachable) return;
  reachable = now;
  for (const card of cards.values()) {
    card.reachable = now;
    now ? card.play() : card.pause();
  }
}

async function refresh() {
  try {
    // Asked first, because a browser notes every answer that refuses as an error.
    if (!admitted) admitted = (await ask("/api/session")).admitted;
    setReachable(true);
    if (!admitted) return askForToken();
    status = await ask("/api/status");
    $("login").hidden = true;
    $("content").hidden = false;
    showCameras(status.cameras, showRun());
    showTables(status.cameras);
  } catch (error) {
    if (error instanceof Refused) return admitted = false;
    setReachable(false);
    badge($("ready"), "no connection", "bad");
    tell($("trouble"), "This page does not reach the run: it has ended, or the network is down. It tries again.");
    $("trouble").hidden = false;
    if (status) showCameras(status.cameras, []);
  }
}

async function refreshHistory() {
  if (!status || !reachable || $("content").hidden) return;
  try {
    history = await ask("/api/history");
    showPlots();
    showEvents(await ask("/api/events"));
  } catch (error) {
    // The status tells, a moment later.
  }
}

// The next question is asked a while after the answer to the last one, so a slow server is not asked faster.
async function repeat(refreshing, delay) {
  if (!document.hidden) await refreshing();
  setTimeout(() => repeat(refreshing, delay), delay);
}

$("login").addEventListener("submit", async (submitted) => {
  submitted.preventDefault();
  tell($("refused"), "");
  try {
    const answer = await ask("/api/session", {Authorization: `Bearer ${$("token").value.trim()}`});
    if (!answer.admitted) return tell($("refused"), "That is not the token.");
    $("token").value = "";
    await refresh();
    $("cameras").focus();
    await refreshHistory();
  } catch (error) {
    tell($("refused"), "The run could not be reached.");
  }
});

$("mark").addEventListener("change", () => history && showPlots());

document.addEventListener("visibilitychange", () => {
  for (const card of cards.values()) document.hidden ? card.pause() : card.play();
});

await repeat(refresh, STATUS_MS);
repeat(refreshHistory, HISTORY_MS);
