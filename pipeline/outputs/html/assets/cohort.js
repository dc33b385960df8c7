"use strict";
(() => {
  const table = document.getElementById("studies");
  const body = table.tBodies[0];
  const rows = Array.from(body.rows, (row, place) => ({
    row,
    place,
    name: row.cells[0].textContent.toLowerCase(),
    grades: row.dataset.g,
    schmorl: row.dataset.s,
    codes: row.dataset.w.split(" ").filter(Boolean),
    warned: row.cells[4].dataset.v !== "0",
    abstained: row.dataset.a === "1",
  }));
  const form = document.getElementById("filters");
  const field = (name) => document.getElementById("by-" + name);
  const shown = document.getElementById("shown");
  const more = document.getElementById("more");
  const names = new Intl.Collator("en", { numeric: true });
  // The browser lays out every row that is shown, whenever one moves: of very many, the first do.
  const FIRST = 150;
  let most = FIRST;

  const gradeFits = (grade, of, n) => {
    const sign = of.grades[n];
    if (grade === "") return sign !== "-";
    if (grade === "x") return "13456".includes(sign) || of.schmorl[n] === "1";
    if (grade === "s") return of.schmorl[n] === "1" && sign !== "6";
    return sign === grade;
  };
  const levelFits = (grade, level, of) => {
    if (grade === "" && level === "") return true;
    if (level !== "") return gradeFits(grade, of, Number(level));
    return Array.from(of.grades).some((_, n) => gradeFits(grade, of, n));
  };
  const warningFits = (wanted, of) => {
    if (wanted === "") return true;
    if (wanted === "any") return of.warned;
    if (wanted === "none") return !of.warned;
    if (wanted === "abstained") return of.abstained;
    return of.codes.includes(wanted);
  };

  const filter = () => {
    const text = field("name").value.trim().toLowerCase();
    const grade = field("grade").value;
    const level = field("level").value;
    const warning = field("warning").value;
    for (const of of rows)
      of.fits = of.name.includes(text) && levelFits(grade, level, of) && warningFits(warning, of);
    most = FIRST;
    show();
  };

  const show = () => {
    let count = 0;
    for (const of of rows) {
      count += of.fits;
      const hidden = !of.fits || count > most;
      if (of.row.hidden !== hidden) of.row.hidden = hidden;
    }
    const cut = count > most;
    const studies = rows.length === 1 ? " study" : " studies";
    shown.textContent =
      count + " of " + rows.length + studies + (cut ? ", the first " + most + " of them below" : "");
    more.textContent = "Show all " + count;
    more.hidden = !cut;
  };

  const showAll = () => {
    most = rows.length;
    show();
  };

  const sort = (head, column, byText) => {
    const falling = head.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", falling ? "descending" : "ascending");
    const value = (of) => Number(of.row.cells[column].dataset.v);
    const compare = byText ? (a, b) => names.compare(a.name, b.name) : (a, b) => a.value - b.value;
    if (!byText) for (const of of rows) of.value = value(of);
    const sign = falling ? -1 : 1;
    rows.sort((a, b) => sign * compare(a, b) || a.place - b.place);
    show();
    body.replaceChildren(...rows.map((of) => of.row));
  };

  Array.from(table.tHead.rows[0].cells).forEach((head, column) => {
    const label = head.querySelector("[data-sort]");
    if (!label) return;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = label.textContent;
    button.addEventListener("click", () => sort(head, column, label.dataset.sort === "text"));
    label.replaceWith(button);
  });
  form.addEventListener("input", filter);
  form.addEventListener("reset", () => setTimeout(filter));
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", showAll);
  window.addEventListener("beforeprint", showAll);
  form.hidden = false;
  filter();
})();
