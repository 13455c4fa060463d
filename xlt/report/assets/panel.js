"use strict";
// The panel with everything about one system; then the page is put together.

function openPanel(system) {
  byId("panel-title").textContent = nameOf(system);
  const body = byId("panel-body");
  body.replaceChildren(
    part("Scores", ...scoresPart(system)), part("Runs", runsTable(system)), part("Learning curves", element("div", { id: "own-curves", className: "pair" })),
    part("Run it again", ...commandsPart(system)), part("Training", ...trainingPart(system)), part("Data", ...dataPart(system)),
    part("Settings", ...settingsPart(system)), part("Where it is from", ...originPart(system)),
  );
  if (!byId("panel").open) byId("panel").showModal();
  byId("panel").scrollTop = 0;
  byId("panel-title").focus();
  history.replaceState(null, "", `#run-${system.runs[0].fingerprint}`);
  ownCurves(system);
}

const part = (title, ...content) => element("section", {}, element("h3", {}, title), ...content);

function list(pairs) {
  return element("dl", {}, ...pairs.filter(([, value]) => value !== null && value !== undefined && value !== "")
    .flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
}

function grid(label, heads, rows) {
  const table = element("table", {},
    element("thead", {}, element("tr", {}, ...heads.map((head, place) => element("th", { scope: "col", className: place ? "figure" : "" }, head)))),
    element("tbody", {}, ...rows.map((cells) => element("tr", {}, ...cells.map((cell, place) =>
      element(place ? "td" : "th", place ? { className: "figure" } : { scope: "row" }, cell))))));
  return element("div", { className: "scrolls", tabIndex: 0, role: "region", ariaLabel: label }, table);
}

function folded(title, ...content) {
  return element("details", {}, element("summary", {}, title), ...content);
}

// ---- its parts

function scoresPart(system) {
  const many = system.seeds > 1;
  const values = system.metrics.map((_, place) => system.runs.map((run) => run.scores[place]).filter((value) => value !== null));
  const rows = system.metrics.map((metric, place) => [
    metric, values[place].length ? score(mean(values[place]), 4) : "–", ...(many ? [score(deviation(values[place]), 4)] : []),
  ]);
  const pairs = AXES.filter((axis) => system[axis] !== "none" || axis === "method").map((axis) =>
    [TITLES[axis], axis === "lang" && system.language ? `${system.lang} ${system.language}` : system[axis]]);
  const gain = system.gain && element("p", {}, "Gain over ", systemLink(system.baseline, "the same without a language module"), ": ", ...gainOf(system));
  return [
    list([...pairs, ["Differs in", system.variant]]),
    grid("Scores", ["Metric", many ? `Mean of ${system.seeds} seeds` : "Score", ...(many ? ["± sd"] : [])], rows),
    system.interval && many ? element("p", { className: "quiet" }, `95 % interval of the mean ${system.metric}: ${range(...system.interval)}`) : null,
    gain,
    ...system.published.map((text) => element("p", {}, `Published: ${text}`)),
  ].filter(Boolean);
}

function systemLink(system, words) {
  const button = element("button", { type: "button", className: "open" }, words);
  button.addEventListener("click", () => openPanel(system));
  return button;
}

function runsTable(system) {
  const rows = system.runs.map((run) => [
    `seed ${run.seed}`,
    ...system.metrics.map((_, place) => element("span", {}, score(run.scores[place]), " ",
      element("small", {}, run.ends[2 * place] === null ? "" : range(run.ends[2 * place], run.ends[2 * place + 1])))),
    whole(run.test_size), run.created.replace("T", " "),
  ]);
  return grid("Runs", ["Run", ...system.metrics, "Test examples", "Made (UTC)"], rows);
}

function ownCurves(system) {
  const kinds = [["task_module", "Task modules"], ["language_module", "Language module"]];
  const all = kinds.flatMap(([kind, title]) => [["loss", "training loss"], ["scores", "validation"]].map(([what, shown]) =>
    ({ kind, what, id: `own-${kind}-${what}`, title: `${title}, ${shown}` }))).filter(({ kind, what }) => curvesOf([system], kind, what).length);
  const figures = all.map(({ id, title }) => element("figure", {}, element("figcaption", {}, title), element("div", { id, className: "plot" })));
  byId("own-curves").replaceChildren(...figures); // all of them, and then what they hold: it fills what place there is
  for (const { id, kind, what } of all) plotCurves(id, [system], kind, what);
  if (!all.length) byId("own-curves").append(element("p", { className: "quiet" }, "The store has none of these runs."));
}

function commandsPart(system) {
  const run = system.runs[0];
  const folder = run.folders[0] && `${DATA.outputs}/${run.folders[0]}`;
  const parts = [];
  if (system.overrides) {
    const settings = system.overrides.map(quoted).join(" ");
    const seeds = system.runs.map((one) => one.seed);
    parts.push(element("p", {}, system.seeds > 1 ? "All seeds, or one:" : "As it was typed, its seed aside:"));
    if (system.seeds > 1) parts.push(command(`python run.py -m ${settings} seed=${seeds.join(",")}`));
    parts.push(command(`python run.py ${settings} seed=${run.seed}`));
  } else parts.push(element("p", { className: "quiet" }, "These runs are from a version of xlt that did not keep what was typed; their settings are below."));
  if (folder) parts.push(element("p", {}, "Label other texts with it:"), command(`python scripts/predict.py ${quoted(`${folder}/result.json`)} texts.txt`));
  const other = system.baseline?.runs[0].folders[0];
  if (folder && other) {
    const patterns = [system.baseline, system].map((one) => one.runs.map((each) => each.folders[0]).filter(Boolean));
    if (patterns.every((found) => found.length === 1)) {
      parts.push(element("p", {}, "Test the gain:"), command(`python scripts/compare.py ${patterns.map(([one]) => quoted(`${DATA.outputs}/${one}`)).join(" ")}`));
    }
  }
  return parts;
}

function command(text) {
  const button = element("button", { type: "button" }, "Copy");
  const code = element("code", {}, text);
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch { // a page from a file may not: the text is selected instead
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  return element("div", { className: "copy" }, element("pre", {}, code), button);
}

const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\"'\"'")}'`);

function trainingPart(system) {
  const roles = [...new Set(system.runs.flatMap((run) => Object.keys(run.trainings)))];
  if (!roles.length) return [element("p", { className: "quiet" }, "Nothing was trained.")];
  return roles.map((role) => {
    const all = [...new Set(system.runs.map((run) => run.trainings[role]))].filter((number) => number !== undefined)
      .map((number) => named(DATA.fields.training, DATA.trainings[number]));
    const average = (name) => (all.every((one) => typeof one[name] === "number") ? mean(all.map((one) => one[name])) : null);
    const shown = (name, show) => (average(name) === null ? null : show(average(name)));
    return element("div", {}, element("h4", {}, role.replaceAll("_", " ") + (all.length > 1 ? `, mean of ${all.length}` : "")), list([
      ["Parameters", shown("trainable_parameters", (value) => whole(Math.round(value)))],
      ["Steps", shown("steps", (value) => whole(Math.round(value)))], ["Best at step", shown("best_step", (value) => whole(Math.round(value)))],
      ["Tokens", shown("tokens", (value) => whole(Math.round(value)))], ["Time", shown("seconds", seconds)],
      ["Peak memory", shown("peak_memory_bytes", bytes)], ["Energy", shown("energy_joules", (value) => `${score(value / 3600)} Wh`)],
      ["Device", all[0].device],
    ]));
  });
}

function dataPart(system) {
  const order = (number) => ["text", "tokens", "examples"].indexOf(STEPS[number].kind);
  const numbers = [...new Set(system.runs.flatMap((run) => run.steps))].filter((number) => STEPS[number].summary);
  numbers.sort((a, b) => order(a) - order(b));
  const cards = numbers.map((number) => {
    const { kind, label, summary } = STEPS[number];
    const { samples, scripts, train, validation, ...rest } = summary;
    const content = [element("h4", {}, `${kind.replaceAll("_", " ")} ${label}`)];
    if (train && "documents" in train) {
      content.push(grid(`Sizes of ${label}`, ["", "Documents", "Bytes"], [["training", train], ["validation", validation]].filter(([, one]) => one)
        .map(([name, one]) => [name, whole(one.documents), bytes(one.bytes)])));
    } else if (train || validation) Object.assign(rest, { train, validation });
    if (scripts) content.push(list([["Scripts", Object.entries(scripts).map(([name, share]) => `${name} ${share < 0.001 ? "< 0.1" : (100 * share).toFixed(1)} %`).join(", ")]]));
    content.push(list(facts(rest)));
    if (samples?.length) content.push(folded(`${samples.length} samples`, ...samples.map((sample) => element("blockquote", { dir: "auto" }, sample))));
    return element("div", {}, ...content);
  });
  return cards.length ? cards : [element("p", { className: "quiet" }, "The store no longer has what is known of the data.")];
}

function settingsPart(system) {
  return system.settings.map((number) => {
    const [name, value] = DATA.settings[number];
    if (typeof value !== "object") return list([[name, String(value)]]);
    return folded(name + (value.name ? `: ${value.name}` : ""), list(leaves(value)));
  });
}

function originPart(system) {
  const machine = DATA.machines[system.runs[0].machine];
  const git = machine.git && `${machine.git.commit.slice(0, 12)}${machine.git.dirty ? ", with changes" : ""}`;
  const folders = system.runs.flatMap((run) => run.folders.map((folder) => [`seed ${run.seed}`, element("code", {}, `${DATA.outputs}/${folder}/result.json`)]));
  const steps = [...new Set(system.runs.flatMap((run) => run.steps))].map((number) => STEPS[number]);
  return [
    list([["Versions", Object.entries(machine.packages).map(([name, version]) => `${name} ${version ?? "–"}`).join(", ")],
      ["Python", machine.python], ["Source", git], ["Device", machine.device], ["Threads", String(machine.threads ?? "")]]),
    folders.length ? folded("Records", list(folders)) : null,
    folded("Fingerprints", list([
      ...system.runs.map((run) => [`evaluation, seed ${run.seed}`, element("code", {}, run.fingerprint)]),
      ...steps.map((step) => [step.kind, element("span", {}, element("code", {}, step.fingerprint), ` ${step.label}`)]),
    ])),
    folded("Revisions", list(steps.filter((step) => step.revision).map((step) => [`${step.kind} ${step.label}`,
      leaves(typeof step.revision === "object" ? step.revision : { revision: step.revision }).map(([name, value]) => `${name} ${value}`).join(", ")]))),
  ].filter(Boolean);
}

// Nested settings as lines: `loop.steps` 100.
function leaves(value, prefix = "") {
  return Object.entries(value).flatMap(([name, inner]) => {
    if (inner !== null && typeof inner === "object" && !Array.isArray(inner)) return leaves(inner, `${prefix}${name}.`);
    const shown = Array.isArray(inner) ? JSON.stringify(inner) : typeof inner === "number" && Number.isInteger(inner) ? whole(inner) : String(inner ?? "–");
    return [[prefix + name, shown]];
  });
}

// The same in words, a line for each mapping of plain values: `guard` guarded 0, sentences left out 0.
function facts(value, prefix = "") {
  const words = (name) => name.replaceAll("_", " ");
  const isNested = (inner) => inner !== null && typeof inner === "object" && !Array.isArray(inner);
  const [nested, plain] = [Object.entries(value).filter(([, inner]) => isNested(inner)), Object.entries(value).filter(([, inner]) => !isNested(inner))];
  const lines = leaves(Object.fromEntries(plain)).map(([name, shown]) => [words(name), shown]);
  const own = prefix && lines.length ? [[words(prefix), lines.map(([name, shown]) => `${name} ${shown}`).join(", ")]] : lines;
  return [...own, ...nested.flatMap(([name, inner]) => facts(inner, prefix ? `${prefix}, ${name}` : name))];
}

// ---- links to runs, from tables of papers and from outside

function openFromHash() {
  const system = SYSTEM_OF_RUN.get(location.hash.replace("#run-", ""));
  if (system) openPanel(system);
}

function makeLinks() {
  for (const cell of document.querySelectorAll("#tables [data-runs]")) {
    const system = SYSTEM_OF_RUN.get(cell.dataset.runs.split(" ")[0].slice(0, 16));
    if (!system) continue;
    const button = element("button", { type: "button", className: "open", ariaLabel: `${cell.textContent}: ${nameOf(system)}` });
    button.append(...cell.childNodes);
    button.addEventListener("click", () => openPanel(system));
    cell.append(button);
  }
}

function makePanel() {
  const panel = byId("panel");
  byId("close").addEventListener("click", () => panel.close());
  panel.addEventListener("click", (event) => { if (event.target === panel) panel.close(); }); // beside it
  panel.addEventListener("close", () => {
    for (const id of [...drawn.keys()].filter((name) => name.startsWith("own-"))) {
      drawn.get(id).destroy();
      drawn.delete(id);
    }
    history.replaceState(null, "", location.pathname + location.search);
  });
  addEventListener("hashchange", openFromHash);
}

// ---- the page

function showRefused() {
  const [named, all] = [DATA.refused.length, DATA.refused_count];
  byId("refused").hidden = byId("to-refused").hidden = !named;
  byId("refused-title").textContent = `Left out: ${whole(all)} ${all === 1 ? "record" : "records"}${named < all ? `, of which ${whole(named)} are named` : ""}`;
  document.querySelector("#refused tbody").append(...DATA.refused.map(([path, why]) =>
    element("tr", {}, element("td", {}, element("code", {}, path)), element("td", {}, why))));
}

showRefused();
byId("tables").hidden = byId("to-tables").hidden = !document.querySelector("#tables table");
makeLinks();
makeTheme();
if (SYSTEMS.length) {
  makeFilters();
  makeTable();
  makePlots();
  makePanel();
  update();
  openFromHash();
} else {
  byId("place").textContent = DATA.outputs;
  byId("first-run").hidden = false;
  for (const id of ["results", "plots"]) byId(id).hidden = true;
}
