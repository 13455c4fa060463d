"use strict";
// The data, what all parts of the page use, and the table of runs with its filters.

const DATA = JSON.parse(document.getElementById("data").textContent);
const PER_PAGE = 50;
const TITLES = {
  task: "Task", lang: "Language", method: "Method", model: "Model", task_method: "Task method", data: "Data", transfer: "Transfer",
  source: "Source", shots: "Shots",
};
const AXES = Object.keys(DATA.axes);

// ---- making elements: text is only ever set as text

function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made && name !== "list") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const byId = (id) => document.getElementById(id);

// ---- numbers

function score(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  return minus(value.toFixed(size < 10 ? digits : size < 1000 ? 1 : 0));
}
const signed = (value) => (value > 0 ? "+" : "") + score(value);
const minus = (text) => text.replace("-", "−");
const range = (low, high, show = score) => `[${show(low)}, ${show(high)}]`;
const whole = (value) => value.toLocaleString("en");

function bytes(value) {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let unit = 0;
  for (; value >= 999.5 && unit < units.length - 1; unit++) value /= 1000;
  return `${value.toFixed(unit && value < 100 ? 1 : 0)} ${units[unit]}`;
}

function seconds(value) {
  if (value < 120) return `${value.toFixed(value < 10 ? 1 : 0)} s`;
  if (value < 7200) return `${(value / 60).toFixed(0)} min`;
  return value < 172800 ? `${(value / 3600).toFixed(1)} h` : `${(value / 86400).toFixed(1)} days`;
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

function deviation(values) {
  if (values.length < 2) return null;
  const middle = mean(values);
  return Math.sqrt(values.reduce((sum, value) => sum + (value - middle) ** 2, 0) / (values.length - 1));
}

// ---- systems: what the rows of lists say

const named = (fields, row) => Object.fromEntries(fields.map((name, place) => [name, row[place]]));
const STEPS = DATA.steps.map((row) => named(DATA.fields.step, row));

const SYSTEMS = DATA.systems.map((row, number) => {
  const system = named(DATA.fields.system, row);
  system.number = number;
  AXES.forEach((axis, place) => { system[axis] = DATA.axes[axis][system.axes[place]]; });
  system.runs = system.runs.map((run) => named(DATA.fields.run, run));
  system.metrics = DATA.metrics[system.metrics];
  system.metric = system.metrics[0];
  const scores = system.runs.map((run) => run.scores[0]).filter((value) => value !== null);
  system.mean = scores.length ? mean(scores) : null;
  system.deviation = deviation(scores);
  system.seeds = system.runs.length;
  system.language = DATA.languages[system.lang] || "";
  return system;
});
for (const system of SYSTEMS) { // by number first, as a baseline may come later
  system.baseline = system.gain ? SYSTEMS[system.gain[0]] : null;
  system.gained = system.gain ? system.gain[1] : null;
  system.text = [...AXES.map((axis) => system[axis]), system.language, system.variant, system.metric].join(" ").toLowerCase();
}
const SYSTEM_OF_RUN = new Map(SYSTEMS.flatMap((system) => system.runs.map((run) => [run.fingerprint, system])));

const nameOf = (system) => `${system.task}, ${system.language || system.lang}, ${system.model}, ${system.method}`
  + (system.variant ? `, ${system.variant}` : "");
const varies = (axis) => DATA.axes[axis].length > 1;

// ---- filters

const chosen = new Map(AXES.map((axis) => [axis, new Set()])); // empty: all
const state = { search: "", sort: null, descending: false, page: 0, visible: SYSTEMS };
const listeners = []; // called whenever other systems are visible

function passes(system, but = null) {
  return AXES.every((axis) => axis === but || !chosen.get(axis).size || chosen.get(axis).has(system[axis]))
    && state.search.split(/\s+/).every((word) => system.text.includes(word));
}

function makeFilters() {
  for (const axis of AXES.filter(varies)) {
    const summary = element("summary", {}, element("span"));
    const options = element("fieldset", {}, element("legend", { className: "hidden" }, TITLES[axis]));
    const names = [...DATA.axes[axis]].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
    for (const name of names) {
      const language = axis === "lang" ? DATA.languages[name] : "";
      const box = element("input", { type: "checkbox", value: name });
      box.addEventListener("change", () => {
        chosen.get(axis)[box.checked ? "add" : "delete"](name);
        update();
      });
      options.append(element("label", {}, box, element("span", {}, language ? `${name} ${language}` : name), element("small")));
    }
    const choice = element("details", { className: "choice" }, summary, options);
    choice.dataset.axis = axis;
    byId("choices").append(choice);
  }
  document.addEventListener("click", (event) => closeChoices(event.target.closest?.(".choice")));
  document.addEventListener("keydown", (event) => {
    const open = document.querySelector(".choice[open]");
    if (event.key !== "Escape" || !open) return;
    closeChoices();
    open.querySelector("summary").focus();
  });
  byId("search").addEventListener("input", (event) => {
    state.search = event.target.value.trim().toLowerCase();
    update();
  });
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("filters").addEventListener("reset", () => {
    chosen.forEach((names) => names.clear());
    state.search = "";
    setTimeout(update);
  });
}

function closeChoices(but = null) {
  document.querySelectorAll(".choice[open]").forEach((choice) => { if (choice !== but) choice.open = false; });
}

function showChoices() {
  let active = Boolean(state.search);
  for (const choice of document.querySelectorAll(".choice")) {
    const axis = choice.dataset.axis;
    const names = [...chosen.get(axis)];
    const counts = new Map();
    for (const system of SYSTEMS) if (passes(system, axis)) counts.set(system[axis], (counts.get(system[axis]) || 0) + 1);
    for (const label of choice.querySelectorAll("label")) {
      const name = label.firstChild.value;
      label.lastChild.textContent = counts.get(name) || 0;
      label.firstChild.checked = chosen.get(axis).has(name);
    }
    choice.classList.toggle("active", names.length > 0);
    choice.querySelector("summary span").textContent = TITLES[axis] + (names.length ? `: ${names.join(", ")}` : "");
    active ||= names.length > 0;
  }
  byId("reset").hidden = !active;
}

function update() {
  state.visible = SYSTEMS.filter((system) => passes(system));
  state.page = 0;
  const runs = state.visible.reduce((sum, system) => sum + system.seeds, 0);
  const all = state.visible.length === SYSTEMS.length;
  byId("count").textContent = `${whole(state.visible.length)}${all ? "" : ` of ${whole(SYSTEMS.length)}`} `
    + `${SYSTEMS.length === 1 ? "system" : "systems"}, ${whole(runs)} ${runs === 1 ? "run" : "runs"}`;
  showChoices();
  sortVisible();
  showRows();
  listeners.forEach((listener) => listener());
}

// ---- the table

const oneMetric = new Set(SYSTEMS.map((system) => system.metric)).size === 1;
const COLUMNS = [
  ...AXES.filter((axis) => axis === "task" || axis === "lang" || varies(axis)).map((axis) => ({ key: axis, title: TITLES[axis] })),
  SYSTEMS.some((system) => system.variant) && { key: "variant", title: "Differs in" },
  !oneMetric && { key: "metric", title: "Metric" },
  { key: "mean", title: oneMetric && SYSTEMS.length ? SYSTEMS[0].metric : "Score", figure: true },
  SYSTEMS.some((system) => system.interval) && { key: "interval", title: "95 % interval", figure: true, fixed: true },
  SYSTEMS.some((system) => system.gain) && { key: "gained", title: "Gain over none", figure: true },
  { key: "seeds", title: "Seeds", figure: true },
].filter(Boolean);

function makeTable() {
  const heads = COLUMNS.map((column) => {
    const head = element("th", { scope: "col", className: column.key === "mean" ? "figure score" : column.figure ? "figure" : "" });
    if (column.fixed) return element("th", { scope: "col", className: "figure" }, column.title);
    head.append(element("button", { type: "button" }, column.title));
    head.dataset.key = column.key;
    head.firstChild.addEventListener("click", () => {
      const again = state.sort === column.key;
      state.descending = again ? !state.descending : Boolean(column.figure);
      state.sort = column.key;
      state.page = 0;
      sortVisible();
      showRows();
      listeners.forEach((listener) => listener());
    });
    return head;
  });
  document.querySelector("#overview thead").append(element("tr", {}, ...heads));
  byId("previous").addEventListener("click", () => turn(-1));
  byId("next").addEventListener("click", () => turn(1));
  const shared = AXES.filter((axis) => !varies(axis) && axis !== "task" && axis !== "lang" && DATA.axes[axis][0] !== "none");
  byId("shared").textContent = shared.map((axis) => `${TITLES[axis]}: ${DATA.axes[axis][0]}`).join("; ");
  byId("shared").hidden = !shared.length;
  byId("legend").textContent = "Scores are means over seeds ± one standard deviation. "
    + (DATA.resampled ? "Intervals come from resampling test examples. " : "Means and gains of so many runs are shown without intervals. ")
    + (SYSTEMS.some((system) => system.gain) ? "Gains are over the same runs without a language module, seed by seed." : "");
}

function sortVisible() {
  const { sort, descending } = state;
  document.querySelectorAll("#overview th[data-key]").forEach((head) => {
    if (head.dataset.key === sort) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  });
  if (sort === null) return;
  const direction = descending ? -1 : 1;
  const collator = new Intl.Collator("en", { numeric: true });
  state.visible.sort((a, b) => {
    const [x, y] = [a[sort], b[sort]];
    if (x === null || y === null) return (x === null) - (y === null); // nothing is last in both directions
    const order = typeof x === "number" ? x - y : collator.compare(x, y);
    return order * direction || a.number - b.number;
  });
}

function turn(pages) {
  state.page += pages;
  showRows();
}

function showRows() {
  const { visible } = state;
  const last = Math.max(0, Math.ceil(visible.length / PER_PAGE) - 1);
  state.page = Math.min(state.page, last);
  const from = state.page * PER_PAGE;
  const rows = visible.slice(from, from + PER_PAGE).map(rowOf);
  const none = element("tr", {}, element("td", { colSpan: COLUMNS.length, className: "quiet" }, "Nothing passes these filters."));
  document.querySelector("#overview tbody").replaceChildren(...(rows.length ? rows : [none]));
  byId("pages").hidden = last === 0;
  byId("page").textContent = `${whole(from + 1)} to ${whole(Math.min(from + PER_PAGE, visible.length))} of ${whole(visible.length)}`;
  byId("previous").disabled = state.page === 0;
  byId("next").disabled = state.page === last;
}

function rowOf(system) {
  const row = element("tr", {}, ...COLUMNS.map((column) => cellOf(system, column)));
  row.addEventListener("click", () => { if (!String(getSelection())) openPanel(system); });
  return row;
}

function cellOf(system, { key }) {
  if (key === "mean") {
    const button = element("button", { type: "button", className: "open", ariaLabel: `${scoreOf(system)}: ${nameOf(system)}` }, scoreOf(system));
    return element("td", { className: "figure score" }, button);
  }
  if (key === "interval") {
    return element("td", { className: "figure range" }, system.interval ? range(...system.interval) : "");
  }
  if (key === "gained") return element("td", { className: "figure" }, ...gainOf(system));
  if (key === "seeds") return element("td", { className: "figure" }, String(system.seeds));
  if (key === "lang") {
    return element("td", {}, system.lang, system.language ? element("small", {}, ` ${system.language}`) : null);
  }
  return element("td", { className: key === "variant" ? "variant" : "" }, system[key] === "none" && key !== "method" ? "–" : system[key]);
}

const scoreOf = (system) => score(system.mean) + (system.deviation === null ? "" : ` ± ${score(system.deviation)}`);

function gainOf(system) {
  if (!system.gain) return [""];
  const [, value, low, high] = system.gain;
  const better = (value > 0) !== system.less_is_better;
  const sure = low !== undefined && low > 0 === high > 0; // zero is outside the interval
  const shown = element("span", { className: sure ? (better ? "up" : "down") : "" }, signed(value));
  return low === undefined ? [shown] : [shown, " ", element("small", {}, range(low, high, signed))];
}

// ---- light and dark

const THEMES = { "": "auto", light: "light", dark: "dark" };

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  byId("theme").textContent = `Theme: ${THEMES[theme]}`;
  listeners.forEach((listener) => listener());
}

function makeTheme() {
  let theme = "";
  try { theme = localStorage.getItem("xlt-theme") || ""; } catch { /* pages from a file may not store anything */ }
  if (theme in THEMES && theme) setTheme(theme);
  byId("theme").addEventListener("click", () => {
    const names = Object.keys(THEMES);
    theme = names[(names.indexOf(theme) + 1) % names.length];
    setTheme(theme);
    try { localStorage.setItem("xlt-theme", theme); } catch { /* likewise */ }
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => listeners.forEach((listener) => listener()));
}
