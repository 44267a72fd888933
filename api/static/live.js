/* The live page: asks for the overview each second and shows what has changed.
   The server's clock rules: every instant is compared with it, never with the reader's own. */

const POLL_MILLISECONDS = 1000;
const ANSWER_MILLISECONDS = 8000;
const MOST_SHOWN = 60;
const MOST_CHIPS = 4;
const KEY = "daybreak-key"; // kept until the tab is closed
const MAP = { top: 85, width: 360, height: 145 }; // degrees; the map ends at 60° south

const byId = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

const page = {
  tag: null, overview: null, clockAhead: 0, failures: 0,
  known: null, arriving: [], arrivalTimer: null, places: new Map(), isLockedOut: false,
};

const now = () => Date.now() + page.clockAhead;

/* ---- asking ---- */

/* A key in the fragment never reaches the server by itself; it is taken out of the address, which others may see. */
function keepKey() {
  const given = new URLSearchParams(location.hash.slice(1)).get("key");
  if (!given) return;
  sessionStorage.setItem(KEY, given);
  history.replaceState(null, "", location.pathname + location.search);
  page.isLockedOut = false;
}

function enterKey(event) {
  event.preventDefault();
  sessionStorage.setItem(KEY, byId("key").value.trim());
  byId("key").value = "";
  page.isLockedOut = false;
  byId("door").hidden = true;
}

function lockOut() {
  sessionStorage.removeItem(KEY);
  page.isLockedOut = true;
  byId("door").hidden = false;
}

async function poll() {
  if (!document.hidden && !page.isLockedOut) {
    try {
      await ask();
      page.failures = 0;
    } catch {
      page.failures += 1;
    }
    showState();
  }
  setTimeout(poll, POLL_MILLISECONDS * Math.min(1 + page.failures, 5));
}

async function ask() {
  const headers = page.tag ? { "If-None-Match": page.tag } : {};
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  const signal = AbortSignal.timeout(ANSWER_MILLISECONDS);
  const answer = await fetch("/api/v1/overview", { headers, signal, cache: "no-store" });
  if (answer.status === 401 || answer.status === 403) return lockOut();
  if (answer.status !== 304 && !answer.ok) throw new Error(`answered ${answer.status}`);
  const served = Date.parse(answer.headers.get("Daybreak-Now"));
  if (!Number.isNaN(served)) page.clockAhead = served - Date.now();
  if (answer.status === 304) return;
  page.tag = answer.headers.get("ETag");
  page.overview = await answer.json();
  show();
}

function showState() {
  const state = byId("state");
  const name = page.isLockedOut ? "locked" : page.failures > 1 ? "lost" : "live";
  if (state.dataset.state === name) return;
  state.dataset.state = name;
  state.textContent = { live: "Live", lost: "No answer, trying again", locked: "Waiting for a key" }[name];
}

/* ---- words ---- */

const element = (name, className, text) => {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};

const number = (value) => new Intl.NumberFormat("en").format(value);
const cityOf = (timezone) => timezone.split("/").at(-1).replaceAll("_", " ");
const clockIn = (zone) => new Date(now() + zone.utc_offset_minutes * 60_000);
const twoDigits = (value) => String(value).padStart(2, "0");
const hoursAndMinutes = (date) => `${twoDigits(date.getUTCHours())}:${twoDigits(date.getUTCMinutes())}`;

function span(milliseconds) {
  const seconds = Math.max(0, Math.round(milliseconds / 1000));
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 100) return `${minutes} min`;
  return `${Math.floor(minutes / 60)} h ${twoDigits(minutes % 60)}`;
}

function countdown(milliseconds) {
  const seconds = Math.ceil(milliseconds / 1000);
  if (seconds < 60 || seconds >= 600) return span(milliseconds);
  return `${Math.floor(seconds / 60)}:${twoDigits(seconds % 60)}`;
}

function lateness(seconds) {
  if (seconds < 1) return "on the second";
  if (seconds < 100) return `${seconds.toFixed(1)} s late`;
  return `${span(seconds * 1000)} late`;
}

function partOfDay(localTime) {
  const hour = Number(localTime.slice(0, 2));
  if (hour >= 5 && hour < 11) return "morning";
  if (hour >= 11 && hour < 17) return "day";
  return hour >= 17 && hour < 22 ? "evening" : "night";
}

function enumerated(names, most) {
  const shown = names.slice(0, most);
  const left = names.length - shown.length;
  if (left) return `${shown.join(", ")} and ${left} more zone${left > 1 ? "s" : ""}`;
  return shown.length > 1 ? `${shown.slice(0, -1).join(", ")} and ${shown.at(-1)}` : shown[0];
}

/* ---- what an overview changes ---- */

function show() {
  showTotals(page.overview.totals);
  showZones();
  showComing();
  showJobs(page.overview.jobs);
  takeIn(page.overview.sent);
}

function showTotals(totals) {
  for (const name of ["sent_last_hour", "sent_last_day", "due_next_hour", "waiting", "retrying", "dead_letters", "users"]) {
    const isCapped = ["users", "dead_letters"].includes(name) && totals[name] >= totals.counted_exactly;
    byId(name).textContent = number(totals[name]) + (isCapped ? "+" : "");
  }
  byId("retrying").dataset.alert = totals.retrying ? "amber" : "";
  byId("dead_letters").dataset.alert = totals.dead_letters ? "red" : "";
}

/* New messages arrive one after the other, however many struck on the same second. */
function takeIn(sent) {
  if (page.known === null) {
    page.known = new Set(sent.map((message) => message.id));
    byId("sent").replaceChildren(...sent.map((message) => sentItem(message)));
    tick();
  } else {
    const fresh = sent.filter((message) => !page.known.has(message.id)).reverse();
    fresh.forEach((message) => page.known.add(message.id));
    page.arriving.push(...fresh);
    if (fresh.length) speak(fresh);
    if (page.arrivalTimer === null) arrive();
  }
  byId("sent-empty").hidden = page.known.size > 0;
}

function arrive() {
  const message = page.arriving.shift();
  if (!message) {
    page.arrivalTimer = null;
    return;
  }
  const list = byId("sent");
  list.prepend(sentItem(message, true));
  while (list.children.length > MOST_SHOWN) list.lastChild.remove();
  light(message);
  tick();
  page.arrivalTimer = setTimeout(arrive, Math.min(450, 12_000 / (page.arriving.length + 1)));
}

function speak(fresh) {
  const last = fresh.at(-1);
  const others = fresh.length > 1 ? `, and ${fresh.length - 1} more` : "";
  byId("spoken").textContent = `${last.local_time} in ${last.timezone}: ${sentence(last)}${others}`;
}

const sentence = (message) => `${message.greeting}, ${message.person ?? "somebody who has left since"}`;

function sentItem(message, isNew = false) {
  const item = element("li", isNew ? "new" : "");
  const clock = element("time", "clock", message.local_time);
  clock.dateTime = message.accepted_at;
  clock.dataset.part = partOfDay(message.local_time);
  const words = element("div");
  const greeting = element("p", "", `${message.greeting}, `);
  greeting.append(element("bdi", "", message.person ?? "somebody"));
  const meta = element("p", "meta", message.timezone);
  meta.append(element("span", "channel", ` · ${message.channel}`), " · ");
  meta.append(element("span", message.lateness_seconds > 60 ? "late" : "", lateness(message.lateness_seconds)));
  if (message.attempt > 1) meta.append(` · attempt ${message.attempt}`);
  words.append(greeting, meta);
  const ago = element("span", "ago");
  ago.dataset.at = message.accepted_at;
  item.append(clock, words, ago);
  return item;
}

function showComing() {
  const groups = new Map();
  for (const each of page.overview.coming) {
    if (!groups.has(each.due_at)) groups.set(each.due_at, []);
    groups.get(each.due_at).push(each);
  }
  byId("coming").replaceChildren(...[...groups].map(([dueAt, members]) => comingItem(dueAt, members)));
  byId("coming-empty").hidden = groups.size > 0;
  tick();
}

function comingItem(dueAt, members) {
  const item = element("li");
  const when = element("div");
  const left = element("time", "in");
  left.dateTime = dueAt;
  const count = members.reduce((sum, each) => sum + each.messages, 0);
  when.append(left, element("p", "count", `${number(count)} ${count === 1 ? "greeting" : "greetings"}`));
  const places = element("div", "places");
  for (const each of members) {
    const place = element("span", each.is_retry ? "place retry" : "place");
    place.title = `${each.greeting}, ${each.timezone}, ${each.channel}${each.is_retry ? ", another attempt" : ""}`;
    place.append(element("b", "", each.local_time), cityOf(each.timezone));
    if (each.messages > 1) place.append(` × ${number(each.messages)}`);
    places.append(place);
  }
  item.append(when, places);
  return item;
}

function showJobs(jobs) {
  const titles = { precalculate: "Plan ahead", enqueue: "Enqueue", recover: "Recover" };
  byId("jobs").replaceChildren(...jobs.map(({ job, last, next_at: next }) => {
    const item = element("li", last?.state === "failed" ? "failed" : "");
    const state = last ? `${last.state} ${hoursAndMinutes(new Date(last.started_at))}` : "has not run yet";
    item.append(element("b", "", titles[job] ?? job), ` ${state}, next ${hoursAndMinutes(new Date(next))} UTC`);
    return item;
  }));
}

/* ---- the map ---- */

const across = (longitude) => longitude + 180;
const down = (latitude) => 90 - latitude;

function showZones() {
  const drawn = byId("zones");
  const wanted = page.overview.zones.filter((zone) => zone.latitude !== null);
  if (wanted.map((zone) => zone.timezone).join() === [...page.places.keys()].join()) {
    wanted.forEach((zone) => { page.places.get(zone.timezone).zone = zone; });
    return;
  }
  drawn.replaceChildren();
  page.places.clear();
  for (const zone of wanted) {
    const dot = circle("dot", zone);
    drawn.append(dot);
    page.places.set(zone.timezone, { zone, dot, ring: null });
  }
}

function circle(className, zone) {
  const made = document.createElementNS(SVG, "circle");
  made.setAttribute("class", className);
  made.setAttribute("cx", across(zone.longitude));
  made.setAttribute("cy", down(zone.latitude));
  made.setAttribute("r", 1);
  return made;
}

/* A greeting went out: its place lights up and says so for a while. */
function light(message) {
  const place = page.places.get(message.timezone);
  if (!place || document.hidden) return;
  for (const className of ["flash", "glow"]) {
    const mark = circle(className, place.zone);
    byId("zones").append(mark);
    setTimeout(() => mark.remove(), 6000);
  }
  const chips = byId("chips");
  while (chips.children.length >= MOST_CHIPS) chips.firstChild.remove();
  const left = (across(place.zone.longitude) / MAP.width) * 100;
  const top = ((MAP.top - place.zone.latitude) / MAP.height) * 100;
  const chip = element("div", "chip", `${message.local_time} ${sentence(message)}`);
  chip.classList.toggle("right", left > 75);
  chip.classList.toggle("left", left < 25);
  chip.classList.toggle("below", top < 14);
  chip.style.left = `${left}%`;
  chip.style.top = `${top}%`;
  chips.append(chip);
  const taken = chip.getBoundingClientRect();
  for (const other of [...chips.children]) {
    if (other !== chip && overlaps(other.getBoundingClientRect(), taken)) other.remove();
  }
  setTimeout(() => chip.remove(), 4200);
}

function overlaps(one, other) {
  return one.left < other.right && other.left < one.right && one.top < other.bottom && other.top < one.bottom;
}

/* The sun's declination and the longitude it stands over, in degrees, good to about half a degree
   (Astronomical Almanac, "Low precision formulas for the Sun"). */
function sun() {
  const radians = Math.PI / 180;
  const days = now() / 86_400_000 - 10_957.5;
  const anomaly = (357.528 + 0.985_600_3 * days) * radians;
  const mean = 280.46 + 0.985_647_4 * days;
  const ecliptic = (mean + 1.915 * Math.sin(anomaly) + 0.02 * Math.sin(2 * anomaly)) * radians;
  const declination = Math.asin(Math.sin(23.439 * radians) * Math.sin(ecliptic)) / radians;
  const ascension = Math.atan2(Math.cos(23.439 * radians) * Math.sin(ecliptic), Math.cos(ecliptic)) / radians;
  const sidereal = 280.460_618_37 + 360.985_647_366_29 * days;
  return { declination, longitude: ((((ascension - sidereal) % 360) + 540) % 360) - 180 };
}

/* The sine of the sun's height over a place. */
function sunlight(latitude, longitude, { declination, longitude: over }) {
  const radians = Math.PI / 180;
  return Math.sin(latitude * radians) * Math.sin(declination * radians)
    + Math.cos(latitude * radians) * Math.cos(declination * radians) * Math.cos((longitude - over) * radians);
}

function colour(name) {
  const hex = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  return [1, 3, 5].map((at) => Number.parseInt(hex.slice(at, at + 2), 16));
}

function drawSky() {
  const context = byId("sky").getContext("2d");
  const image = context.createImageData(MAP.width, MAP.height);
  const [day, night, dawn] = ["--day", "--night", "--dawn"].map(colour);
  const above = sun();
  for (let y = 0; y < MAP.height; y += 1) {
    for (let x = 0; x < MAP.width; x += 1) {
      const longitude = x - 179.5;
      const light = sunlight(MAP.top - 0.5 - y, longitude, above);
      const brightness = Math.min(1, Math.max(0, (light + 0.2) / 0.32));
      const smooth = brightness * brightness * (3 - 2 * brightness);
      const morning = 0.5 - 0.5 * Math.sin((longitude - above.longitude) * (Math.PI / 180));
      const glow = (0.15 + 0.7 * morning) * Math.exp(-(((light + 0.02) / 0.085) ** 2));
      for (let channel = 0; channel < 3; channel += 1) {
        const plain = night[channel] + (day[channel] - night[channel]) * smooth;
        image.data[(y * MAP.width + x) * 4 + channel] = plain + (dawn[channel] - plain) * glow;
      }
      image.data[(y * MAP.width + x) * 4 + 3] = 255;
    }
  }
  context.putImageData(image, 0, 0);
}

/* The hours by the sun along the bottom; each zone's own clock may differ by an hour or two. */
function drawRuler() {
  const utcHours = (now() / 3_600_000) % 24;
  const marks = [];
  for (let hour = 0; hour < 24; hour += 3) {
    const left = ((((hour - utcHours) * 15 + 180) % 360) + 360) % 360 / 3.6;
    if (hour === 9) {
      const line = element("i");
      line.style.left = `${left}%`;
      marks.push(line);
    }
    if (left < 5 || left > 95) continue;
    const mark = element("span", hour === 9 ? "nine" : "", `${twoDigits(hour)}:00`);
    mark.style.left = `${left}%`;
    marks.push(mark);
  }
  byId("ruler").replaceChildren(...marks);
}

/* ---- what time alone changes ---- */

function tick() {
  byId("utc").textContent = new Date(now()).toISOString().slice(11, 19);
  for (const ago of document.querySelectorAll(".ago")) {
    ago.textContent = `${span(now() - Date.parse(ago.dataset.at))} ago`;
  }
  for (const left of document.querySelectorAll(".in")) {
    const milliseconds = Date.parse(left.dateTime) - now();
    left.textContent = milliseconds > 500 ? `in ${countdown(milliseconds)}` : "now";
  }
  if (page.overview) markZones();
}

function markZones() {
  const soon = new Set(page.overview.coming
    .filter((each) => Date.parse(each.due_at) - now() < 60_000)
    .map((each) => each.timezone));
  const above = sun();
  const atNine = [];
  for (const [timezone, place] of page.places) {
    const { zone, dot } = place;
    const isNine = clockIn(zone).getUTCHours() === 9;
    if (isNine) atNine.push(zone);
    dot.classList.toggle("nine", isNine);
    dot.classList.toggle("night", sunlight(zone.latitude, zone.longitude, above) < -0.05);
    if (soon.has(timezone) && !place.ring) {
      place.ring = circle("ring", zone);
      byId("zones").append(place.ring);
    } else if (!soon.has(timezone) && place.ring) {
      place.ring.remove();
      place.ring = null;
    }
  }
  showHeadline(atNine);
}

/* The busiest first: they are the ones the lists below speak of. */
function byBusiness(zones) {
  const busy = new Map();
  for (const each of [...page.overview.sent, ...page.overview.coming]) {
    busy.set(each.timezone, (busy.get(each.timezone) ?? 0) + 1);
  }
  return zones.toSorted((one, other) => (busy.get(other.timezone) ?? 0) - (busy.get(one.timezone) ?? 0));
}

function showHeadline(atNine) {
  const zones = page.overview.zones;
  const words = [];
  if (!zones.length) {
    words.push("Nobody is here yet: add people, and their hour will come");
  } else if (atNine.length) {
    const ranked = byBusiness(atNine);
    const first = hoursAndMinutes(clockIn(ranked[0]));
    const same = ranked.filter((zone) => hoursAndMinutes(clockIn(zone)) === first);
    words.push("It is ", element("strong", "", first), " now in ",
      element("strong", "", enumerated(same.map((zone) => cityOf(zone.timezone)), 3)));
  } else {
    words.push("Everyone at the right hour of their own day");
  }
  const headline = byId("headline");
  const text = words.map((word) => word.textContent ?? word).join("");
  if (headline.textContent !== text) headline.replaceChildren(...words);
}

function redraw() {
  drawSky();
  drawRuler();
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawSky);
redraw();
setInterval(redraw, 30_000);
setInterval(tick, 1000);
addEventListener("hashchange", keepKey);
byId("door").addEventListener("submit", enterKey);
keepKey();
poll();
