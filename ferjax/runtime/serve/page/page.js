// Shows the events of the device: the state, the faces of the newest frame, and the last minute of each face.
"use strict";

const MINUTE = 60; // seconds of the timelines
const STEP = 0.1; // seconds between the kept samples of a face
const GAP = 1; // seconds without a sample after which a timeline is empty
const LATE = 3; // seconds without a frame that are reported
const RETRY = 2000; // milliseconds between attempts to connect

const find = (id) => document.getElementById(id);
const percent = (share) => `${Math.round(100 * share)} %`;

let classes = []; // {name, color} in the order of the model
let colors = new Map(); // class name -> color
let isStills = false;
let events = null; // the open EventSource
let retry = 0; // timer of the next attempt to connect
let paused = false;
let hasEnded = false; // the device has ended the stream
let entries = []; // of the frame that arrives
let now = 0; // time of the newest frame on the device, in seconds
const cards = new Map(); // track -> card of a face in the newest frame
const histories = new Map(); // track -> {samples, timeline} of a face in the last minute

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties); // textContent: names are never read as HTML
  made.append(...children);
  return made;
}

function say(text) {
  if (find("state").textContent !== text) find("state").textContent = text;
}

// Connection

function connect() {
  disconnect();
  if (paused) return;
  events = new EventSource("events");
  events.onmessage = ({ data }) => entries.push(JSON.parse(data));
  events.addEventListener("model", ({ data }) => start(JSON.parse(data)));
  events.addEventListener("frame", ({ data }) => show(JSON.parse(data)));
  events.addEventListener("status", ({ data }) => showStatus(JSON.parse(data)));
  events.addEventListener("end", () => {
    hasEnded = true;
    tryAgain();
  });
  events.onerror = tryAgain;
}

function disconnect() {
  clearTimeout(retry);
  events?.close();
  events = null;
  find("rate").textContent = "";
}

async function tryAgain() {
  disconnect();
  retry = setTimeout(connect, RETRY);
  say(hasEnded ? "The stream has ended. Waiting for the device" : "No connection to the device: trying again");
  const answer = await fetch("health").catch(() => null);
  if (answer?.status === 403) say("This address is no longer valid: ferjax prints a new one at each start");
  else if (answer) say("The device takes no more viewers for now: trying again");
}

// The picture is requested only while it is seen, because the device encodes it only then.
function playPicture() {
  if (events?.readyState === EventSource.OPEN && !document.hidden) find("picture").src = `picture.mjpeg?${Date.now()}`;
}

function stopPicture() {
  find("picture").src = `snapshot.png?${Date.now()}`; // ends the request of the stream
}

// What arrives

function start(model) {
  classes = model.classes;
  colors = new Map(classes.map(({ name, color }) => [name, color]));
  isStills = model.stills;
  hasEnded = false;
  entries = [];
  clear(0);
  find("minute").hidden = isStills;
  find("legend").replaceChildren(
    ...classes.map(({ name, color }) => colored(element("li", { textContent: name }), color)),
    element("li", { textContent: "uncertain", className: "uncertain" }),
  );
  say("Live");
  playPicture();
}

function colored(made, color) {
  made.style.setProperty("--color", color);
  return made;
}

function show(frame) {
  if (frame.time < now) clear(frame.time); // another start of the device
  now = frame.time;
  for (const [track, card] of cards) {
    if (frame.tracks.includes(track)) continue;
    card.root.remove();
    cards.delete(track);
  }
  for (const entry of entries) {
    showFace(entry);
    if (!isStills) remember(entry);
  }
  find("nobody").hidden = cards.size > 0;
  entries = [];
}

function clear(time) {
  now = time;
  for (const memory of [cards, histories]) {
    for (const { root } of memory.values()) root.remove();
    memory.clear();
  }
  find("nobody").hidden = false;
}

function showStatus(status) {
  const age = status.seconds_since_frame;
  const faces = status.faces === 1 ? "1 face" : `${status.faces} faces`;
  const isLate = age === null || (age > LATE && !isStills);
  say(isLate ? "The camera sends no frame" : "Live");
  find("rate").textContent = isStills ? `image ${status.frames}, ${faces}` : `${Math.round(status.fps)} fps, ${faces}`;
  if (!isStills) drawTimelines();
}

// Faces

function showFace(entry) {
  if (!cards.has(entry.track)) cards.set(entry.track, addCard(entry.track));
  const card = cards.get(entry.track);
  colored(card.root, colors.get(entry.label) ?? "#fff");
  card.label.textContent = entry.label;
  card.confidence.textContent = percent(entry.confidence);
  classes.forEach(({ name }, i) => {
    card.bars[i].style.width = `${100 * entry.probabilities[name]}%`;
    card.shares[i].textContent = percent(entry.probabilities[name]);
  });
}

function addCard(track) {
  const label = element("span");
  const confidence = element("span");
  const bars = classes.map(({ color }) => colored(element("div"), color));
  const shares = classes.map(() => element("td"));
  const rows = classes.map(({ name }, i) =>
    element("tr", {}, element("th", { textContent: name, scope: "row" }),
      element("td", {}, element("div", { className: "bar" }, bars[i])), shares[i]));
  const root = element("section", { className: "person" },
    element("h3", {}, element("span", { textContent: `#${track}` }), label, confidence),
    element("table", {}, element("tbody", {}, ...rows)));
  root.setAttribute("aria-label", `Face ${track}`);
  find("faces").append(root);
  return { root, label, confidence, bars, shares };
}

// Timelines

function remember(entry) {
  if (!histories.has(entry.track)) histories.set(entry.track, addTimeline(entry.track));
  const { samples } = histories.get(entry.track);
  if (samples.length && entry.time - samples.at(-1).time < STEP) return;
  const shares = classes.map(({ name }) => entry.probabilities[name]);
  samples.push({ time: entry.time, label: entry.label, shares });
}

function addTimeline(track) {
  const caption = element("p");
  const canvas = element("canvas");
  canvas.setAttribute("role", "img");
  const root = element("div", { className: "timeline" }, caption, canvas);
  find("timelines").append(root);
  return { samples: [], track, root, caption, canvas };
}

function drawTimelines() {
  for (const [track, history] of histories) {
    const { samples } = history;
    while (samples.length && now - samples[0].time > MINUTE) samples.shift();
    if (samples.length) drawTimeline(history);
    else {
      history.root.remove();
      histories.delete(track);
    }
  }
}

function drawTimeline({ samples, track, caption, canvas }) {
  caption.textContent = `#${track} ${summary(samples)}`;
  canvas.setAttribute("aria-label", `Face ${track} in the last minute: ${summary(samples)}`);
  canvas.width = canvas.clientWidth * devicePixelRatio;
  canvas.height = canvas.clientHeight * devicePixelRatio;
  const { width, height } = canvas;
  const context = canvas.getContext("2d");
  const hatching = hatch(context);
  const x = (time) => Math.round(width * (1 - (now - time) / MINUTE));
  samples.forEach(({ time, label, shares }, i) => {
    const left = x(time);
    const right = x(Math.min(samples[i + 1]?.time ?? now, time + GAP));
    let bottom = height;
    shares.forEach((share, j) => {
      context.fillStyle = classes[j].color;
      context.fillRect(left, bottom - share * height, right - left, share * height);
      bottom -= share * height;
    });
    if (label === "uncertain") {
      context.fillStyle = hatching;
      context.fillRect(left, 0, right - left, height);
    }
  });
}

function summary(samples) {
  const counts = new Map();
  for (const { label } of samples) counts.set(label, (counts.get(label) ?? 0) + 1);
  const ranked = [...counts].sort((a, b) => b[1] - a[1]);
  return ranked.map(([label, count]) => `${label} ${percent(count / samples.length)}`).join(", ");
}

function hatch(context) {
  const tile = element("canvas", { width: 8, height: 8 });
  const pen = tile.getContext("2d");
  pen.lineWidth = 2;
  for (const shift of [-8, 0, 8]) {
    pen.moveTo(shift, 8);
    pen.lineTo(shift + 8, 0);
  }
  pen.stroke();
  return context.createPattern(tile, "repeat");
}

find("pause").addEventListener("click", () => {
  paused = !paused;
  find("pause").textContent = paused ? "Continue" : "Pause";
  say(paused ? "Paused" : "Connecting");
  if (paused) stopPicture();
  connect();
});
document.addEventListener("visibilitychange", () => (document.hidden ? stopPicture() : playPicture()));
connect();
