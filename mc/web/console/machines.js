/** All machines: the list, which of them are in view, and the filter. */

import { byId, make, pause, write } from "./dom.js";
import { Row } from "./row.js";
import { STATES } from "./verbs.js";

// Milliseconds of work on the list after which the page gets to breathe, and the rows that are made
// before it does so for the first time.
const SLICE = 8;
const FIRST_ROWS = 12;

const { compare } = new Intl.Collator(undefined, { numeric: true });

export const machines = {
  element: byId("machines"),
  /** By UUID. @type {Map<string, Row>} */
  rows: new Map(),
  /** What is still to be taken from the last list. @type {Map<string, import("./row.js").Machine>} */
  coming: new Map(),

  /**
   * Takes the whole list, a few rows at a time, so that a thousand of them do not hold up the page.
   * @param {import("./row.js").Machine[]} list
   */
  take(list) {
    const present = new Set(list.map(({ uuid }) => uuid));
    for (const uuid of this.rows.keys()) if (!present.has(uuid)) this.forget(uuid);
    const sorted = list.sort((one, other) => compare(one.name, other.name));
    this.coming = new Map(sorted.map((machine) => [machine.uuid, machine]));
    if (!this.taking) this.takeComing();
  },

  async takeComing() {
    this.taking = true;
    for (let number = 0; number < FIRST_ROWS; number += 1) this.takeNext();
    while (this.coming.size) {
      filter.count();
      await pause(0);
      for (const end = performance.now() + SLICE; performance.now() < end;) this.takeNext();
    }
    this.taking = false;
    filter.count();
  },

  takeNext() {
    const [next] = this.coming.values();
    if (next) this.put(next);
  },

  /** Takes one machine, known or new. */
  put(machine, news = false) {
    this.coming.delete(machine.uuid);
    const known = this.rows.get(machine.uuid);
    const row = known ?? new Row(machine);
    const named = known?.machine.name;
    if (known) known.update(machine, news);
    else this.rows.set(machine.uuid, row);
    if (named !== machine.name) this.insert(row);
    // Somebody at work in a row is not to lose it to the filter by that.
    row.element.hidden = !filter.admits(machine) && (row.element.hidden || !row.inUse);
    if (!known) view.observe(row.element);
  },

  /** Puts a row where its name belongs; looked for from the end, for they come in order at first. */
  insert(row) {
    const focused = document.activeElement;
    const follows = ({ dataset }) =>
      compare(this.rows.get(dataset.uuid).machine.name, row.machine.name) > 0;
    let before = this.element.lastElementChild;
    while (before && (before === row.element || follows(before))) {
      before = before.previousElementSibling;
    }
    if (before) before.after(row.element);
    else this.element.prepend(row.element);
    if (row.element.contains(focused)) focused.focus({ preventScroll: true });
  },

  forget(uuid) {
    this.coming.delete(uuid);
    const row = this.rows.get(uuid);
    if (!row) return;
    const next = row.element.nextElementSibling ?? row.element.previousElementSibling;
    const hadFocus = row.element.contains(document.activeElement);
    row.tell("row:gone");
    view.unobserve(row.element);
    row.close();
    this.rows.delete(uuid);
    if (hadFocus) (next && this.of(next) ? this.of(next).menuButton : filter.name).focus();
  },

  /** The row that an element belongs to. */
  of(element) {
    return this.rows.get(element.closest(".row")?.dataset.uuid);
  },

  get inView() {
    return [...this.rows.values()].filter((row) => row.inView);
  },
};

const view = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) machines.of(target)?.setInView(isIntersecting);
}, { rootMargin: "100px" });

export const filter = {
  form: byId("filter"),
  name: byId("filter-name"),
  /** By state; the empty one stands for all. @type {Map<string, HTMLInputElement>} */
  choices: new Map(),

  /** @param {import("./row.js").Machine} machine */
  admits({ name, state }) {
    const wanted = this.form.elements.state.value;
    const text = this.name.value.trim().toLowerCase();
    return (!wanted || wanted === state) && name.toLowerCase().includes(text);
  },

  apply() {
    for (const row of machines.rows.values()) row.element.hidden = !this.admits(row.machine);
    this.count();
  },

  /** Shows how many machines there are, soon: many may change at a time. */
  count() {
    if (this.counting) return;
    this.counting = requestAnimationFrame(() => {
      this.counting = 0;
      this.showCounts([...machines.rows.values()]);
    });
  },

  /** @param {Row[]} rows */
  showCounts(rows) {
    const numbers = { "": rows.length };
    for (const { machine: { state } } of rows) numbers[state] = (numbers[state] ?? 0) + 1;
    for (const [state, input] of this.choices) {
      const label = input.parentElement;
      write(label.querySelector("b"), `${numbers[state] ?? 0}`);
      label.hidden = !(numbers[state] || input.checked || !state);
    }
    const shown = rows.filter(({ element }) => !element.hidden).length;
    write(byId("count"), shown === rows.length ? "" : `${shown} of ${rows.length} shown`);
    byId("nothing").hidden = shown > 0;
    write(byId("nothing"), rows.length ? "No machine fits the filter." : "There are no machines.");
  },

  listen() {
    for (const state of ["", ...STATES]) {
      const input = make("input", "");
      Object.assign(input, { type: "radio", name: "state", value: state, checked: !state });
      const label = make("label", "", input, make("span", "", `${state || "all"} `, make("b", "", "0")));
      label.hidden = Boolean(state);
      this.choices.set(state, input);
      byId("filter-state").append(label);
    }
    this.form.addEventListener("input", () => this.apply());
    this.form.addEventListener("submit", (event) => event.preventDefault());
  },
};
