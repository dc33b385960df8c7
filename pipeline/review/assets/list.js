// The list of studies, and its filters.

import * as api from "./api.js";

const LIMIT = 100;
const MOST = 500;
const WORDS = {
  open: "open", done: "reviewed", refused: "refused", failed: "failed", stale: "result changed",
};

export class StudyList {
  /** @param on {choose(name), failed(error)}. */
  constructor(on) {
    this.on = on;
    this.studies = [];
    this.current = null;
    this.asked = 0;
    this.items = document.getElementById("studies");
    this.more = document.getElementById("more");
    this.filters = ["text", "status", "code"].map((name) => [name, document.getElementById(`by-${name}`)]);
    for (const [, field] of this.filters) field.addEventListener("input", () => this.load());
    document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
    this.more.addEventListener("click", () => this.load(this.studies.length));
  }

  query(offset, limit) {
    return { offset, limit, ...Object.fromEntries(this.filters.map(([name, field]) => [name, field.value])) };
  }

  /** Load the studies that fit, from the first on, or the next ones behind those that are shown. */
  async load(offset = 0) {
    this.asked += 1;
    const asked = this.asked;
    let part;
    try {
      part = await api.studies(this.query(offset, LIMIT));
    } catch (error) {
      this.on.failed(error);
      return;
    }
    if (asked !== this.asked) return;
    this.studies = offset ? [...this.studies, ...part.studies] : part.studies;
    this.total = part.total;
    this.showCounts(part);
    this.render();
  }

  /** Load again as many as are shown: what was saved tells in their lines. */
  async refresh() {
    this.asked += 1;
    const asked = this.asked;
    try {
      const part = await api.studies(this.query(0, Math.min(Math.max(this.studies.length, LIMIT), MOST)));
      const studies = [...part.studies, ...this.studies.slice(MOST)];
      const place = this.studies.findIndex((one) => one.name === this.current);
      if (place >= 0 && !studies.some((one) => one.name === this.current)) {
        // The study in hand fits the filters no longer: it keeps its place until the next choice.
        const { studies: named } = await api.studies({ offset: 0, limit: MOST, text: this.current });
        const own = named.find((one) => one.name === this.current);
        if (own !== undefined) studies.splice(place, 0, own);
      }
      if (asked !== this.asked) return;
      this.studies = studies;
      this.total = part.total;
      this.showCounts(part);
      this.render();
    } catch (error) {
      this.on.failed(error);
    }
  }

  showCounts(part) {
    const done = part.statuses.done || 0;
    document.getElementById("progress").textContent = `${done} of ${part.all} reviewed`;
    document.getElementById("count").textContent = part.total === part.all
      ? `${part.all} studies, doubtful ones first`
      : `${part.total} of ${part.all} studies`;
    const codes = this.filters[2][1];
    const known = [...codes.options].map((option) => option.value);
    for (const [code, count] of Object.entries(part.codes)) {
      if (!known.includes(code)) codes.append(new Option(`${code} (${count})`, code));
    }
  }

  render() {
    const focused = this.items.contains(document.activeElement) ? document.activeElement.dataset.name : null;
    const parts = this.studies.map((one) => {
      const item = document.createElement("li");
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.name = one.name;
      if (one.name === this.current) button.setAttribute("aria-current", "true");
      const name = document.createElement("span");
      name.className = "name";
      name.textContent = `${one.looked_at ? "✓ " : ""}${one.name}`;
      const about = document.createElement("span");
      about.className = "about";
      about.textContent = aboutOf(one);
      button.append(name, about);
      button.addEventListener("click", () => this.on.choose(one.name));
      item.append(button);
      return item;
    });
    this.items.replaceChildren(...parts);
    this.more.hidden = this.studies.length >= this.total;
    if (focused !== null) this.button(focused)?.focus({ preventScroll: true });
  }

  button(name) {
    return [...this.items.querySelectorAll("button")].find((one) => one.dataset.name === name);
  }

  mark(name) {
    this.current = name;
    for (const button of this.items.querySelectorAll("button")) {
      if (button.dataset.name === name) {
        button.setAttribute("aria-current", "true");
        const part = document.getElementById("list-part");
        if (part.scrollHeight > part.clientHeight) button.scrollIntoView({ block: "nearest" });
      } else button.removeAttribute("aria-current");
    }
  }

  /** The study so many places further on; of the open ones alone where that is asked for. */
  beside(by, open = false) {
    const names = this.studies.filter((one) => !open || one.status === "open" || one.name === this.current);
    const place = names.findIndex((one) => one.name === this.current);
    if (place < 0) return names[0]?.name ?? null;
    return names[place + by]?.name ?? (open ? names.find((one) => one.name !== this.current)?.name ?? null : null);
  }
}

function aboutOf(one) {
  if (one.status === "failed" || one.status === "refused") return `${one.status}: ${one.reason}`;
  const words = [WORDS[one.status], `${one.found} of ${one.of}`];
  if (one.naming !== null) words.push(one.abstained ? "levels are a guess" : `names ${one.naming.toFixed(2)}`);
  if (one.changes) words.push(one.changes);
  if (one.codes.length) words.push(one.codes.join(" "));
  return words.join(" · ");
}
