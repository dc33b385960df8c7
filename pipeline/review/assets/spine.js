// The structures of a study as a reader leaves them. Nothing here touches the page: each function
// returns a new state, or throws a Refusal that says why it cannot be.
// Points and boxes are in stored pixels, as in result.json.

export class Refusal extends Error {}

export const kindOf = (level) => (level.includes("-") ? "disc" : "vertebra");

/** The state of a study: its result with the corrections that lie beside it. */
export function stateOf(result, corrections) {
  const structures = result.structures.map((found) => ({
    of: found.level,
    level: found.level,
    x: found.point_xy[0],
    y: found.point_xy[1],
    box: found.box_xyxy,
    seven: found.seven ? found.seven.class : null,
    v5: found.binary ? found.binary.class === 1 : null,
    deleted: false,
    confidence: found.confidence,
    own: found,
  }));
  for (const change of corrections ? corrections.changes : []) {
    const place = structures.findIndex((one) => one.of !== null && one.of === change.of);
    if (place >= 0) structures[place] = changedBy(structures[place], change);
    else if (change.of === null) structures.push(addedBy(change, structures));
  }
  return {
    structures,
    lookedAt: corrections ? corrections.looked_at : false,
    comment: corrections ? corrections.comment : "",
  };
}

function changedBy(one, change) {
  const made = { ...one, deleted: Boolean(change.deleted), level: change.level || one.level };
  if (change.seven !== undefined) made.seven = change.seven;
  if (change.v5 !== undefined) made.v5 = change.v5;
  if (made.seven === 6 && change.seven === 6) made.v5 = true;
  return change.point_xy ? placed(made, ...change.point_xy) : made;
}

function addedBy(change, others) {
  const [x, y] = change.point_xy;
  const half = halfHeight(others);
  const box = [x - 1.4 * half, y - half, x + 1.4 * half, y + half];
  const seven = change.seven ?? null;
  const v5 = seven === 6 ? true : change.v5 ?? null;
  return { of: null, level: change.level, x, y, box, seven, v5, deleted: false, confidence: 1, own: null };
}

function halfHeight(structures) {
  const halves = structures.map((one) => (one.box[3] - one.box[1]) / 2).sort((a, b) => a - b);
  return halves.length ? halves[Math.floor(halves.length / 2)] : 10;
}

function placed(one, x, y) {
  const [dx, dy] = [x - one.x, y - one.y];
  const [left, top, right, bottom] = one.box;
  return { ...one, x, y, box: [left + dx, top + dy, right + dx, bottom + dy] };
}

/** What is stored of a state: the differences from the result alone. */
export function changesOf(state) {
  const changes = [];
  for (const one of state.structures) {
    if (one.of === null) {
      if (!one.deleted) changes.push(withGrades({ of: null, level: one.level, point_xy: [one.x, one.y] }, one, null, null));
      continue;
    }
    if (one.deleted) {
      changes.push({ of: one.of, deleted: true });
      continue;
    }
    const change = { of: one.of };
    const { own } = one;
    if (one.level !== one.of) change.level = one.level;
    if (Math.hypot(one.x - own.point_xy[0], one.y - own.point_xy[1]) > 0.001) change.point_xy = [one.x, one.y];
    withGrades(change, one, own.seven ? own.seven.class : null, own.binary ? own.binary.class === 1 : null);
    if (Object.keys(change).length > 1) changes.push(change);
  }
  return changes;
}

function withGrades(change, one, seven, v5) {
  if (one.seven !== null && one.seven !== seven) change.seven = one.seven;
  if (one.v5 !== null && one.v5 !== v5) change.v5 = one.v5;
  return change;
}

export function isChanged(one) {
  return one.of === null || changesOf({ structures: [one] }).length > 0;
}

/** Places of the structures that are there, by level from above. */
export function inOrder(state, beyond) {
  const places = state.structures.map((_, place) => place).filter((n) => !state.structures[n].deleted);
  return places.sort((a, b) => beyond.indexOf(state.structures[a].level) - beyond.indexOf(state.structures[b].level));
}

const replaced = (state, place, one) => ({
  ...state,
  structures: state.structures.map((each, n) => (n === place ? one : each)),
});

export function moved(state, place, x, y, size) {
  const within = (value, most) => Math.min(Math.max(value, -0.5), most - 0.5);
  const near = (value) => Math.round(value * 1000) / 1000;
  const [toX, toY] = [near(within(x, size.width)), near(within(y, size.height))];
  return replaced(state, place, placed(state.structures[place], toX, toY));
}

/** All names, or those of one structure and of what lies below it, so many vertebrae down. */
export function shifted(state, by, beyond, from = null) {
  const first = from === null ? -1 : beyond.indexOf(state.structures[from].level);
  const structures = state.structures.map((one) => {
    const rank = beyond.indexOf(one.level);
    if (one.deleted || rank < first) return one;
    const level = beyond[rank + 2 * by];
    if (level === undefined) throw new Refusal("the names cannot be shifted any further");
    return { ...one, level };
  });
  return free({ ...state, structures });
}

function free(state) {
  const names = state.structures.filter((one) => !one.deleted).map((one) => one.level);
  const twice = names.find((name, n) => names.indexOf(name) !== n);
  if (twice !== undefined) throw new Refusal(`${twice} would occur twice; shift all names, or delete it first`);
  return state;
}

/** One structure under another name; the one that bears it takes the name that becomes free. */
export function renamed(state, place, level) {
  const one = state.structures[place];
  if (kindOf(level) !== kindOf(one.level)) throw new Refusal(`${one.level} is a ${kindOf(one.level)}, but ${level} is not`);
  const structures = state.structures.map((each, n) => {
    if (n === place) return { ...each, level };
    return !each.deleted && each.level === level ? { ...each, level: one.level } : each;
  });
  return { ...state, structures };
}

export function renamedBy(state, place, by, beyond) {
  const level = beyond[beyond.indexOf(state.structures[place].level) + 2 * by];
  if (level === undefined) throw new Refusal("the name cannot be shifted any further");
  return renamed(state, place, level);
}

export function graded(state, place, code, grades) {
  const one = state.structures[place];
  const kind = kindOf(one.level);
  if (grades[code].kind !== kind) {
    const fitting = grades.map((grade, n) => [grade, n + 1]).filter(([grade]) => grade.kind === kind);
    const words = fitting.map(([grade, key]) => `${key} ${grade.name.split("-")[1]}`).join(", ");
    throw new Refusal(`${one.level} is a ${kind}: ${words}`);
  }
  return replaced(state, place, { ...one, seven: code, v5: code === 6 ? true : one.v5 });
}

export function withV5(state, place, v5) {
  const one = state.structures[place];
  if (kindOf(one.level) !== "disc") throw new Refusal(`${one.level} is a vertebra, which cannot have V5`);
  if (!v5 && one.seven === 6) throw new Refusal("the only grade is V5; select another grade first");
  return replaced(state, place, { ...one, v5 });
}

export const deleted = (state, place) => replaced(state, place, { ...state.structures[place], deleted: true });

/** A missing level, between its neighbours or beyond the last of them. */
export function added(state, level, beyond, size) {
  const order = inOrder(state, beyond).map((n) => state.structures[n]);
  const rank = beyond.indexOf(level);
  const rankOf = (one) => beyond.indexOf(one.level);
  let [x, y] = [size.width / 2, size.height / 2];
  if (order.length === 1) [x, y] = [order[0].x, order[0].y + (rank - rankOf(order[0])) * 0.5 * (order[0].box[3] - order[0].box[1])];
  if (order.length > 1) {
    let below = order.findIndex((one) => rankOf(one) > rank);
    if (below < 0) below = order.length - 1;
    const [a, b] = [order[Math.max(below, 1) - 1], order[Math.max(below, 1)]];
    const share = (rank - rankOf(a)) / (rankOf(b) - rankOf(a));
    [x, y] = [a.x + share * (b.x - a.x), a.y + share * (b.y - a.y)];
  }
  const made = addedBy({ level, point_xy: [x, y] }, order);
  const next = { ...state, structures: [...state.structures, made] };
  return moved(next, next.structures.length - 1, x, y, size);
}

/** What another window made of the same study, and what was done here since both agreed. */
export function merged(base, mine, theirs) {
  const key = (one) => (one.of === null ? `+${one.level}` : one.of);
  const mapped = (state) => new Map(state.structures.map((one) => [key(one), one]));
  const same = (a, b) => JSON.stringify(a && { ...a, own: null }) === JSON.stringify(b && { ...b, own: null });
  const [was, here, there] = [base, mine, theirs].map(mapped);
  const both = [];
  const structures = [];
  for (const name of new Set([...there.keys(), ...here.keys()])) {
    const [b, m, t] = [was.get(name), here.get(name), there.get(name)];
    const mineChanged = !same(b, m);
    if (mineChanged && !same(b, t) && !same(m, t)) both.push(name.replace("+", ""));
    const kept = mineChanged ? m : t;
    if (kept !== undefined) structures.push(kept);
  }
  const one = (name) => (mine[name] === base[name] ? theirs[name] : mine[name]);
  if (mine.comment !== base.comment && theirs.comment !== base.comment && mine.comment !== theirs.comment) both.push("the comment");
  return { state: { structures, lookedAt: one("lookedAt"), comment: one("comment") }, both };
}

/** Levels that do not run from top to bottom in the upright image. */
export function outOfOrder(state, beyond, heightOf) {
  const order = inOrder(state, beyond).map((n) => state.structures[n]);
  return order.filter((one, n) => n > 0 && heightOf(one) <= heightOf(order[n - 1])).map((one) => one.level);
}
