// The page of spineline review: brings list, picture, structures and server together.

import * as api from "./api.js";
import * as spine from "./spine.js";
import { StudyList } from "./list.js";
import { toShown, toStored, Viewer } from "./viewer.js";

const $ = (id) => document.getElementById(id);
const MOST_UNDO = 200;
const RETRY_MS = 3000;
const COMMENT_MS = 1000;

let setup = null;
let study = null; // as the server gave it
let state = null; // as the reader left it
let base = null; // what the server has, as far as this window knows
let revision = 0;
let past = [];
let future = [];
let chosen = null;
let place = 0; // of the slice
let turn = null; // of the result's slice
let started = false; // corrections of an earlier result are begun anew
let before = null; // the state before a drag
let writing = 0; // waits for the end of what is typed
let saving = null;
let dirty = false;
const slices = new Map();

const list = new StudyList({ choose: (name) => open(name), failed: (error) => say(error.message, "bad") });
const viewer = new Viewer($("picture"), {
  choose: (one) => choose(one),
  drag(one, x, y, ended) {
    if (ended) {
      const now = state;
      state = before;
      before = null;
      if (now !== null && state !== null) change(now);
      return;
    }
    if (!mayEdit()) return;
    if (before === null) before = state;
    state = spine.moved(state, one, x, y, study.result.image);
    show(false);
  },
});

function say(text, kind = "") {
  $("saved").textContent = text;
  $("saved").className = kind;
}

const mayEdit = () => study !== null && !setup.readonly && study.refusal === null && !study.problem
  && (!study.stale || started);
const mayLook = () => study !== null && !setup.readonly && !study.problem && (!study.stale || started);

// ---- opening ----

async function open(name) {
  await settled();
  let found;
  try {
    found = await api.study(name);
  } catch (error) {
    close(name, error.message);
    return;
  }
  study = found;
  started = false;
  past = [];
  future = [];
  adopt(found);
  chosen = null;
  slices.clear();
  turn = null;
  place = found.image.graded;
  location.hash = encodeURIComponent(name);
  list.mark(name);
  say(setup.readonly ? "read only" : "");
  viewer.show(null, true);
  show(true);
  await showSlice(place, true);
}

/** Take up what the server says of the study's corrections. */
function adopt(found) {
  const corrections = found.stale ? null : found.corrections;
  state = spine.stateOf(found.result, corrections);
  base = state;
  revision = found.corrections ? found.corrections.revision : 0;
}

function close(name, text) {
  study = null;
  state = null;
  location.hash = encodeURIComponent(name);
  list.mark(name);
  viewer.show(null, true);
  $("study-name").textContent = name;
  $("notices").replaceChildren(notice(text));
  $("slice").textContent = "";
  say("");
  viewer.marks = [];
  viewer.draw();
  showTable();
}

async function showSlice(wanted, anew = false) {
  const of = study;
  if (of === null || of.image.count === 0) return;
  const at = Math.min(Math.max(wanted, 0), of.image.count - 1);
  try {
    if (!slices.has(at)) slices.set(at, await api.slice(of.name, at));
  } catch (error) {
    $("slice").textContent = `slice ${at + 1}: ${error.message}`;
    return;
  }
  if (of !== study) return;
  place = at;
  const slice = slices.get(at);
  if (at === of.image.graded) turn = slice.turn;
  viewer.show(slice, anew);
  show(false);
  for (const beside of [at - 1, at + 1]) {
    if (beside >= 0 && beside < of.image.count && !slices.has(beside)) {
      api.slice(of.name, beside).then((found) => { if (of === study) slices.set(beside, found); }, () => {});
    }
  }
}

// ---- showing ----

function notice(text, ...more) {
  const box = document.createElement("p");
  box.append(text, ...more);
  return box;
}

function button(text, act) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = text;
  made.addEventListener("click", act);
  return made;
}

function show(whole) {
  viewer.mayEdit = place === study?.image.graded;
  viewer.chosen = chosen;
  viewer.marks = state === null ? [] : spine.inOrder(state, setup.beyond).map(markOf);
  viewer.draw();
  if (study !== null && study.image.count) {
    const graded = place === study.image.graded;
    $("slice").textContent = `slice ${place + 1} of ${study.image.count}${graded ? "" : " · not the slice of the result (Home)"}`;
  } else $("slice").textContent = "";
  if (before === null) showTable();
  if (whole) showStudy();
}

function markOf(n) {
  const one = state.structures[n];
  const beyond = !setup.levels.includes(one.level);
  return { place: n, x: one.x, y: one.y, box: one.box, kind: spine.kindOf(one.level), beyond, text: textOf(one, beyond) };
}

function textOf(one, beyond) {
  if (beyond) return `${one.level} (left out)`;
  const words = [one.level];
  if (one.seven !== null) words.push(setup.grades[one.seven].name.split("-")[1]);
  if (one.v5 && one.seven !== 6) words.push("+V5");
  if (spine.isChanged(one)) words.push("✎");
  return words.join(" ");
}

function showStudy() {
  $("study-name").textContent = study.name;
  const notes = [];
  if (study.refusal !== null) notes.push(notice(`Refused, so nothing is named: ${study.refusal}`));
  if (study.problem) notes.push(notice(`Its corrections cannot be read and are left unchanged: ${study.problem}`));
  if (study.stale && !started) {
    const anew = button("Correct the new result", () => { started = true; show(true); });
    notes.push(notice("The result was rewritten after it was corrected. The earlier corrections do not "
      + "apply to it; their file is kept.", setup.readonly ? "" : anew));
  }
  if (study.image.problem) notes.push(notice(`No image: ${study.image.problem}`));
  const warnings = study.result.warnings.map((one) => (typeof one === "string" ? one : `${one.code}: ${one.text}`));
  if (warnings.length) {
    const items = document.createElement("ul");
    items.append(...warnings.map((text) => Object.assign(document.createElement("li"), { textContent: text })));
    const fold = document.createElement("details");
    fold.append(Object.assign(document.createElement("summary"), { textContent: `${warnings.length} ${warnings.length === 1 ? "warning" : "warnings"}` }), items);
    notes.push(fold);
  }
  $("notices").replaceChildren(...notes);
  const known = study.image.count ? "" : "No image. ";
  $("picture").setAttribute("aria-label", `${known}Slice of ${study.name}; the table of structures lists what is marked in it`);
}

function showTable() {
  const body = $("structures").tBodies[0];
  const focused = body.contains(document.activeElement) ? document.activeElement.id : null;
  const order = state === null ? [] : spine.inOrder(state, setup.beyond);
  body.replaceChildren(...order.map(rowOf));
  if (focused !== null) $(focused)?.focus({ preventScroll: true });
  const named = order.map((n) => state.structures[n].level);
  const missing = state === null ? [] : setup.levels.filter((level) => !named.includes(level));
  $("add-level").replaceChildren(...missing.map((level) => new Option(level, level)));
  $("add-line").hidden = !missing.length || !mayEdit();
  $("comment").disabled = !mayLook();
  $("looked-at").disabled = !mayLook();
  if (state !== null && document.activeElement !== $("comment")) $("comment").value = state.comment;
  if (state === null) $("comment").value = "";
  $("looked-at").checked = state !== null && state.lookedAt;
  const able = { undo: past.length > 0, redo: future.length > 0, "chain-up": mayEdit(), "chain-down": mayEdit(), done: mayLook() };
  for (const [name, may] of Object.entries(able)) document.querySelector(`[data-do="${name}"]`).disabled = !may;
  showOrder();
}

function showOrder() {
  $("order")?.remove();
  if (state === null) return;
  const height = (one) => (turn === null ? one.y : toShown(turn, one.x, one.y)[1]);
  const wrong = spine.outOfOrder(state, setup.beyond, height);
  if (!wrong.length) return;
  const note = notice(`${wrong.join(", ")}: not below the level above it; convert and write leave such a study out`);
  note.id = "order";
  $("notices").append(note);
}

function rowOf(n) {
  const one = state.structures[n];
  const kind = spine.kindOf(one.level);
  const row = document.createElement("tr");
  row.dataset.place = n;
  const beyond = !setup.levels.includes(one.level);
  row.className = [n === chosen ? "chosen" : "", spine.isChanged(one) ? "changed" : "", beyond ? "beyond" : ""].join(" ").trim();
  const shape = document.createElement("span");
  shape.className = `shape ${kind}`;
  shape.title = kind;
  const levels = setup.beyond.filter((level) => spine.kindOf(level) === kind && (setup.levels.includes(level) || level === one.level));
  const level = selectOf(`level-${n}`, `Level of ${one.level}`, levels.map((name) => [name, name]), one.level);
  level.addEventListener("change", () => attempt(() => spine.renamed(state, n, level.value)));
  const grades = setup.grades.map((grade, code) => [code, grade]).filter(([, grade]) => grade.kind === kind);
  const options = grades.map(([code, grade]) => [code, `${code + 1} ${grade.name.split("-")[1]}`]);
  if (one.seven === null) options.unshift(["", "not graded"]);
  const grade = selectOf(`grade-${n}`, `Grade of ${one.level}`, options, one.seven ?? "");
  grade.addEventListener("change", () => attempt(() => spine.graded(state, n, Number(grade.value), setup.grades)));
  const cells = [[shape, level], [grade], [], []];
  if (kind === "disc") {
    const v5 = Object.assign(document.createElement("input"), { type: "checkbox", id: `v5-${n}`, checked: Boolean(one.v5), disabled: !mayEdit() });
    v5.setAttribute("aria-label", `V5 of ${one.level}`);
    v5.addEventListener("change", () => attempt(() => spine.withV5(state, n, v5.checked)));
    cells[2].push(v5);
  }
  const remove = button("✕", () => removed(n));
  remove.id = `delete-${n}`;
  remove.setAttribute("aria-label", `Delete ${one.level}`);
  remove.disabled = !mayEdit();
  cells[3].push(remove);
  for (const parts of cells) row.insertCell().append(...parts);
  row.addEventListener("pointerdown", () => chooseLater(n));
  row.addEventListener("focusin", () => chooseLater(n));
  return row;
}

function selectOf(id, label, options, value) {
  const made = Object.assign(document.createElement("select"), { id, disabled: !mayEdit() });
  made.setAttribute("aria-label", label);
  made.append(...options.map(([key, text]) => new Option(text, key)));
  made.value = value;
  return made;
}

function choose(n) {
  chosen = n;
  mark();
  if (n !== null && viewer.slice) viewer.reveal(state.structures[n].x, state.structures[n].y);
}

/** Choose without making the table anew, in which somebody is at work. */
function chooseLater(n) {
  if (n !== chosen) choose(n);
}

function mark() {
  viewer.chosen = chosen;
  viewer.draw();
  for (const row of $("structures").tBodies[0].rows) row.classList.toggle("chosen", Number(row.dataset.place) === chosen);
}

// ---- changing ----

function attempt(make) {
  if (!mayEdit()) {
    say(setup.readonly ? "read only" : "nothing can be changed here", "bad");
    return;
  }
  try {
    change(make());
  } catch (error) {
    if (!(error instanceof spine.Refusal)) throw error;
    say(error.message, "bad");
    showTable();
  }
}

function change(next) {
  past.push(state);
  if (past.length > MOST_UNDO) past.shift();
  future = [];
  set(next);
}

function set(next) {
  state = next;
  if (chosen !== null && (state.structures[chosen] === undefined || state.structures[chosen].deleted)) chosen = null;
  show(false);
  save();
}

function undo() {
  if (!past.length) return;
  future.push(state);
  set(past.pop());
}

function redo() {
  if (!future.length) return;
  past.push(state);
  set(future.pop());
}

function removed(n) {
  attempt(() => spine.deleted(state, n));
}

function withChosen(act) {
  if (chosen === null) say("select a structure first (↑ ↓)", "bad");
  else attempt(() => act(chosen));
}

function nudge(dx, dy) {
  if (place !== study?.image.graded && study?.image.count) {
    say("points can only be moved on the slice of the result (Home)", "bad");
    return;
  }
  withChosen((n) => {
    const one = state.structures[n];
    const at = turn;
    if (at === null) return spine.moved(state, n, one.x + dx, one.y + dy, study.result.image);
    const [x, y] = toShown(at, one.x, one.y);
    const to = toStored(at, x + dx, y + dy);
    return spine.moved(state, n, ...to, study.result.image);
  });
}

// ---- saving ----

const valueOf = () => ({
  revision,
  result_sha256: study.result_sha256,
  looked_at: state.lookedAt,
  comment: state.comment,
  changes: spine.changesOf(state),
});

/** Save what is there now; while a save is on its way the next one waits. */
function save() {
  dirty = true;
  if (saving === null) saving = saveAll().finally(() => { saving = null; });
  return saving;
}

async function saveAll() {
  while (dirty) {
    dirty = false;
    const [of, sent] = [study, state];
    say("saving …");
    try {
      const kept = await api.save(of.name, valueOf());
      revision = kept.revision;
      base = sent;
      if (study.stale) study = { ...study, stale: false };
      if (!dirty) say("saved", "good");
    } catch (error) {
      if (error.status === 409) {
        if (!(await agree(of))) return;
      } else if (error.status >= 400 && error.status < 500) {
        say(`not saved: ${error.message}`, "bad");
        return;
      } else {
        dirty = true;
        say(`not saved, trying again: ${error.message}`, "bad");
        await new Promise((done) => { setTimeout(done, RETRY_MS); });
      }
    }
  }
  list.refresh();
}

/** Another window saved in between: join its work and this one's. */
async function agree(of) {
  const found = await api.study(of.name);
  if (found.result_sha256 !== of.result_sha256) {
    study = found;
    started = false;
    past = [];
    future = [];
    adopt(found);
    slices.clear();
    show(true);
    await showSlice(found.image.graded, true);
    say("the result was rewritten; review it again", "bad");
    return false;
  }
  const theirs = spine.stateOf(found.result, found.corrections);
  const { state: joined, both } = spine.merged(base, state, theirs);
  past.push(theirs);
  future = [];
  base = theirs;
  revision = found.corrections ? found.corrections.revision : 0;
  state = joined;
  chosen = null;
  show(true);
  dirty = true;
  if (both.length) $("notices").prepend(notice(`Another window changed ${both.join(", ")} too; the change made here counts, and undo restores the other.`));
  return true;
}

async function settled() {
  if (document.activeElement === $("comment")) $("comment").blur();
  clearTimeout(writing);
  if (saving !== null) await saving;
}

/** See whether another window has saved the study that is shown here. */
async function catchUp() {
  if (study === null || saving !== null || before !== null || document.hidden) return;
  const of = study;
  try {
    const found = await api.study(of.name);
    if (of !== study || saving !== null || before !== null) return;
    const now = found.corrections ? found.corrections.revision : 0;
    if (now === revision && found.result_sha256 === of.result_sha256) return;
    past.push(state);
    study = found;
    if (found.result_sha256 !== of.result_sha256) past = [];
    future = [];
    adopt(found);
    chosen = null;
    show(true);
    say("changed in another window", "");
    list.refresh();
  } catch { /* the next save tells */ }
}

// ---- keys ----

async function step(by, open_ = false) {
  const name = list.beside(by, open_);
  if (name !== null && name !== undefined) await open(name);
  else say(open_ ? "no further open study in the list" : "no further study in the list", "");
}

async function lookedAt() {
  if (!mayLook()) return;
  if (!state.lookedAt) change({ ...state, lookedAt: true });
  await settled();
  await list.refresh();
  await step(1, true);
}

function chooseBy(by) {
  if (state === null) return;
  const order = spine.inOrder(state, setup.beyond);
  if (!order.length) return;
  const at = order.indexOf(chosen);
  choose(order[at < 0 ? (by > 0 ? 0 : order.length - 1) : Math.min(Math.max(at + by, 0), order.length - 1)]);
}

function toggle(what) {
  viewer[what === "boxes" ? "boxes" : "points"] = !viewer[what === "boxes" ? "boxes" : "points"];
  const pressed = what === "boxes" ? viewer.boxes : viewer.points;
  document.querySelector(`[data-do="${what}"]`).setAttribute("aria-pressed", String(pressed));
  viewer.draw();
}

function add() {
  const level = $("add-level").value;
  if (!level) return;
  attempt(() => spine.added(state, level, setup.beyond, study.result.image));
  const made = state.structures.findIndex((one) => !one.deleted && one.level === level);
  if (made >= 0) choose(made);
}

const shift = (by) => attempt(() => spine.shifted(state, by, setup.beyond));
const shiftBelow = (by) => withChosen((n) => spine.shifted(state, by, setup.beyond, n));
const shiftOne = (by) => withChosen((n) => spine.renamedBy(state, n, by, setup.beyond));
const grade = (code) => withChosen((n) => spine.graded(state, n, code, setup.grades));
const PAN = 40;

const ACTIONS = {
  "slice-back": () => showSlice(place - 1),
  "slice-on": () => showSlice(place + 1),
  boxes: () => toggle("boxes"),
  marks: () => toggle("marks"),
  fit: () => viewer.fit(),
  "chain-up": () => shift(-1),
  "chain-down": () => shift(1),
  undo,
  redo,
  add,
  done: () => lookedAt(),
  previous: () => step(-1),
  next: () => step(1),
};

// [keys, what they do, in words, the action]; a key is written as [modifier+]event.key.
const KEYS = [
  [["ArrowUp", "ArrowDown"], "↑ ↓", "select a structure", (key) => chooseBy(key === "ArrowUp" ? -1 : 1)],
  [["ArrowLeft", "ArrowRight"], "← →", "previous, next slice", (key) => showSlice(place + (key === "ArrowLeft" ? -1 : 1))],
  [["Home"], "Home", "the slice of the result", () => showSlice(study ? study.image.graded : 0)],
  [["[", "]", "Shift+ArrowUp", "Shift+ArrowDown"], "[ ]  Shift+↑ ↓", "all names one level up, down", (key) => shift(key === "[" || key.endsWith("Up") ? -1 : 1)],
  [["{", "}", "Alt+ArrowUp", "Alt+ArrowDown"], "{ }  Alt+↑ ↓", "names of the selected structure and all below it, one level up, down", (key) => shiftBelow(key === "{" || key.endsWith("Up") ? -1 : 1)],
  [[",", "."], ", .", "name of the selected structure, one level up, down", (key) => shiftOne(key === "," ? -1 : 1)],
  [["1", "2", "3", "4", "5", "6", "7"], "1 … 7", "grade: 1–2 of a vertebra, 3–7 of a disc", (key) => grade(Number(key) - 1)],
  [["v"], "v", "switch V5 (Schmorl's node)", () => withChosen((n) => spine.withV5(state, n, !state.structures[n].v5))],
  [["h", "j", "k", "l"], "h j k l", "move the point left, down, up, right by one pixel", (key) => nudge({ h: -1, l: 1 }[key] || 0, { j: 1, k: -1 }[key] || 0)],
  [["H", "J", "K", "L"], "H J K L", "the same by five pixels", (key) => nudge({ H: -5, L: 5 }[key] || 0, { J: 5, K: -5 }[key] || 0)],
  [["Delete", "Backspace"], "Delete", "delete the structure", () => withChosen((n) => spine.deleted(state, n))],
  [["a"], "a", "add the missing level that is selected below the table", add],
  [["Ctrl+z", "z"], "Ctrl+Z", "undo", undo],
  [["Ctrl+y", "Ctrl+Z", "y"], "Ctrl+Y", "redo", redo],
  [["Enter"], "Enter", "mark as reviewed and go to the next open study", () => lookedAt()],
  [["x"], "x", "mark or unmark as reviewed", () => toggleLooked()],
  [["n", "p"], "n p", "next, previous study", (key) => step(key === "n" ? 1 : -1)],
  [["c"], "c", "write a comment (Esc to leave)", () => $("comment").focus()],
  [["/"], "/", "find a study by name", () => { $("list-fold").open = true; $("by-text").focus(); }],
  [["b", "m"], "b m", "show or hide boxes, points", (key) => toggle(key === "b" ? "boxes" : "marks")],
  [["+", "=", "-"], "+ -", "zoom", (key) => viewer.zoom(key === "-" ? 0.8 : 1.25)],
  [["Ctrl+ArrowUp", "Ctrl+ArrowDown", "Ctrl+ArrowLeft", "Ctrl+ArrowRight"], "Ctrl+arrows", "move the image", (key) => viewer.pan(...{ Up: [0, PAN], Down: [0, -PAN], Left: [PAN, 0], Right: [-PAN, 0] }[key.slice(10)])],
  [["q", "w"], "q w", "brighter, darker", (key) => viewer.rewindow(key === "q" ? -0.05 : 0.05, 0)],
  [["e", "r"], "e r", "more, less contrast", (key) => viewer.rewindow(0, key === "e" ? -0.1 : 0.1)],
  [["f"], "f", "reset view and window", () => viewer.fit()],
  [["?"], "?", "list these keys", () => $("help").showModal()],
];

function toggleLooked() {
  if (mayLook()) change({ ...state, lookedAt: !state.lookedAt });
}

function pressed(event) {
  if ($("help").open || event.isComposing) return;
  const { target } = event;
  if (target.matches("textarea, input[type=search]")) {
    if (event.key === "Escape") $("picture").focus();
    return;
  }
  const modifier = event.ctrlKey || event.metaKey ? "Ctrl+" : event.altKey ? "Alt+" : "";
  const letter = event.key.length === 1;
  const shifted = event.shiftKey && !letter && !modifier ? "Shift+" : "";
  const key = `${modifier}${shifted}${event.key}`;
  const own = target.matches("select") ? !modifier && !shifted && (letter || /^(Arrow|Home|Enter)/.test(event.key)) : false;
  const presses = target.matches("button, a, summary, input[type=checkbox]") && (event.key === "Enter" || event.key === " ");
  if (own || presses) return;
  const found = KEYS.find(([keys]) => keys.includes(key));
  if (found === undefined) return;
  event.preventDefault();
  found[3](key);
}

// ---- the start ----

function keepComment() {
  clearTimeout(writing);
  if (mayLook() && state.comment !== $("comment").value) change({ ...state, comment: $("comment").value });
}

async function start() {
  try {
    setup = await api.setup();
  } catch (error) {
    say(error.message, "bad");
    return;
  }
  $("comment").maxLength = setup.most_letters;
  for (const [, words, meaning] of KEYS) {
    const term = document.createElement("dt");
    term.append(Object.assign(document.createElement("kbd"), { textContent: words }));
    $("keys").append(term, Object.assign(document.createElement("dd"), { textContent: meaning }));
  }
  for (const one of document.querySelectorAll("[data-do]")) one.addEventListener("click", () => ACTIONS[one.dataset.do]());
  $("help-button").addEventListener("click", () => $("help").showModal());
  $("help-close").addEventListener("click", () => $("help").close());
  $("looked-at").addEventListener("change", toggleLooked);
  $("comment").addEventListener("change", keepComment);
  $("comment").addEventListener("input", () => {
    clearTimeout(writing);
    writing = setTimeout(keepComment, COMMENT_MS);
  });
  document.addEventListener("keydown", pressed);
  window.addEventListener("focus", catchUp);
  document.addEventListener("visibilitychange", catchUp);
  window.addEventListener("beforeunload", (event) => { if (dirty || saving !== null) event.preventDefault(); });
  window.addEventListener("hashchange", () => {
    const name = decodeURIComponent(location.hash.slice(1));
    if (name && name !== list.current) open(name);
  });
  if (window.innerWidth <= 760) $("list-fold").open = false;
  await list.load();
  const wanted = decodeURIComponent(location.hash.slice(1)) || list.studies[0]?.name;
  if (wanted) await open(wanted);
  else showTable();
}

start();
