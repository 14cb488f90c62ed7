/** The menu, one for all rows: it hangs at the button that opened it, and follows its machine. */

import { choose } from "./actions.js";
import { byId, make } from "./dom.js";
import { VERBS, verbsOf } from "./verbs.js";

export const menu = {
  element: byId("menu"),
  /** @type {?HTMLButtonElement} */
  button: null,
  /** @type {?import("./row.js").Row} */
  row: null,

  /** @param {number} focused the place of the item that gets the focus; -1 is the last one */
  open(row, button, focused = 0) {
    this.close();
    Object.assign(this, { row, button, names: [] });
    button.ariaExpanded = "true";
    this.element.ariaLabel = `${button.textContent}: ${row.machine.name}`;
    this.element.showPopover();
    this.refresh(row);
    this.items.at(focused).focus();
  },

  close() {
    const { button } = this;
    if (!button) return;
    this.button = this.row = null;
    button.ariaExpanded = "false";
    if (this.element.contains(document.activeElement)) button.focus();
    this.element.hidePopover();
  },

  get items() {
    return [...this.element.children];
  },

  /** Shows the verbs that make sense now, also while it is open. */
  refresh(row) {
    if (this.row !== row) return;
    const names = verbsOf(this.button.dataset.menu, row.condition);
    if (names.join() !== this.names.join()) this.fill(names);
    if (names.length) this.place();
    else this.close();
  },

  fill(names) {
    const focused = document.activeElement.dataset.verb;
    const hadFocus = this.element.contains(document.activeElement);
    this.names = names;
    this.element.replaceChildren(...names.map((name) => this.item(name)));
    const same = this.items.find((item) => item.dataset.verb === focused);
    if (hadFocus) (same ?? this.items[0] ?? this.row.menuButton).focus();
  },

  item(name) {
    const { labels, warning } = VERBS[name];
    const item = make("button", "", labels[this.row.condition] + (warning ? " …" : ""));
    Object.assign(item, { type: "button", role: "menuitem", tabIndex: -1 });
    item.dataset.verb = name;
    return item;
  },

  /** Under its button, or above it where there is no room. */
  place() {
    const at = this.button.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height, style } = this.element;
    const fitsBelow = at.bottom + 4 + height <= innerHeight - 8;
    style.top = `${fitsBelow ? at.bottom + 4 : Math.max(8, at.top - height - 4)}px`;
    style.left = `${Math.max(8, Math.min(at.right - width, innerWidth - width - 8))}px`;
  },

  pressed(event) {
    const { items } = this;
    const now = items.indexOf(document.activeElement);
    const places = {
      ArrowDown: (now + 1) % items.length,
      ArrowUp: (now + items.length - 1) % items.length,
      Home: 0,
      End: items.length - 1,
    };
    if (event.key === "Tab") return this.close();
    if (event.key === "Escape") this.close();
    else if (event.key in places) items[places[event.key]].focus();
    else if (/^\p{L}$/u.test(event.key)) this.jump(now, event.key);
    else return;
    event.preventDefault();
  },

  /** To the next item that begins with a letter. */
  jump(now, letter) {
    const { items } = this;
    const begins = (item) => item.textContent.toLowerCase().startsWith(letter.toLowerCase());
    [...items.slice(now + 1), ...items.slice(0, now + 1)].find(begins)?.focus();
  },

  chosen(item) {
    const { row } = this;
    if (!item) return;
    this.close();
    choose(row, item.dataset.verb);
  },

  listen() {
    this.element.addEventListener("keydown", (event) => this.pressed(event));
    this.element.addEventListener("click", ({ target }) => this.chosen(target.closest("button")));
    this.element.addEventListener("focusout", ({ relatedTarget }) => {
      const stays = relatedTarget === this.button || this.element.contains(relatedTarget);
      // Another window may have the focus for a while, and items may be made anew.
      if (relatedTarget && !stays) this.close();
    });
    document.addEventListener("pointerdown", ({ target }) => {
      if (this.button && !this.element.contains(target) && !this.button.contains(target)) this.close();
    });
    for (const what of ["scroll", "resize"]) {
      addEventListener(what, () => this.button && this.place(), { passive: true });
    }
  },
};
