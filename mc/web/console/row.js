/**
 * One machine in the list.
 *
 * Everything is changed in place, so that focus and an open menu outlive any news. What the list of
 * machines does not tell (boot order, picture, reason) is read while somebody looks at it. A row
 * says on its element what is new: `row:changed`, `row:picture`, with itself as the detail.
 *
 * @typedef {{id: ?number, name: string, uuid: string, state: string, power: "on" | "off"}} Machine
 * @typedef {{order: string[], pending: boolean, once: ?string, default: string[]}} Boot
 */

import { Refusal, Silence, lanes, request } from "./calls.js";
import { byId, make, write } from "./dom.js";
import { DEVICES, VERBS, WITH_REASON, condition, verbsOf } from "./verbs.js";

// Milliseconds after which details are read again though nobody has said that they changed, and
// after which a machine without a picture is asked for one again.
const DETAILS_LAST = 10000;
const REFUSAL_LASTS = 15000;

export class Row {
  /** @param {Machine} machine */
  constructor(machine) {
    this.element = byId("row").content.firstElementChild.cloneNode(true);
    this.element.dataset.uuid = machine.uuid;
    this.picture = this.element.querySelector("img");
    this.hint = this.element.querySelector(".hint");
    this.menuButton = this.element.querySelector("[data-menu=boot]");
    this.inView = false;
    /** Whether it is shown large, and so watched wherever it is in the list. */
    this.enlarged = false;
    this.reason = "";
    /** @type {?Boot} */
    this.boot = null;
    this.readAt = 0;
    this.noPictureUntil = 0;
    this.update(machine);
  }

  get url() {
    return `/service/${this.machine.uuid}`;
  }

  get condition() {
    return condition(this.machine.state, this.reason);
  }

  /** Whether somebody is at work here: has the focus, or has just done something. */
  get inUse() {
    const focused = this.element.contains(document.activeElement);
    return focused || this.element.querySelector(".entry") !== null;
  }

  get watched() {
    return this.inView || this.enlarged;
  }

  /**
   * @param {Machine} machine
   * @param {boolean} news whether something about it has changed, be it in the object or not
   */
  update(machine, news = false) {
    const old = this.machine;
    this.machine = machine;
    const changed = !old || ["id", "name", "state"].some((each) => old[each] !== machine[each]);
    if (changed) {
      if (old?.state !== machine.state) this.reason = "";
      this.noPictureUntil = 0;
      this.show();
    }
    if (changed || news || Date.now() - this.readAt > DETAILS_LAST) this.outdated = true;
    if (this.outdated && this.watched) this.freshen();
  }

  show() {
    const { name, state, power } = this.machine;
    write(this.element.querySelector("h2"), name);
    showState(this.element.querySelector(".state"), state, this.reason);
    this.element.querySelector(".verbs").ariaLabel = name;
    if (power === "off") this.dropPicture("off");
    this.namePicture();
    for (const button of this.element.querySelectorAll("[data-verb]")) this.showVerb(button);
    const more = this.element.querySelector("[data-menu=more]");
    this.showButton(more, verbsOf("more", this.condition).length > 0);
    this.tell("row:changed");
  }

  showVerb(button) {
    const { labels, direct } = VERBS[button.dataset.verb];
    const fits = direct.includes(this.condition);
    if (fits) write(button, labels[this.condition]);
    this.showButton(button, fits);
  }

  showButton(button, fits) {
    if (!fits) this.rescueFocus(button);
    button.hidden = !fits;
  }

  /** Focus must not be lost with what goes: it moves to the button of a menu. */
  rescueFocus(leaving) {
    if (leaving.contains(document.activeElement)) this.menuButton.focus();
  }

  tell(what) {
    this.element.dispatchEvent(new CustomEvent(what, { bubbles: true, detail: this }));
  }

  setInView(inView) {
    this.inView = inView;
    if (inView) this.freshen();
    else this.dropIfUnwatched();
  }

  setEnlarged(enlarged) {
    this.enlarged = enlarged;
    this.dropIfUnwatched();
  }

  dropIfUnwatched() {
    if (!this.watched) this.dropPicture(this.machine.power === "off" ? "off" : "");
  }

  /** Reads what is outdated, and the picture; one call at a time. */
  async freshen() {
    if (this.freshening) return;
    this.freshening = true;
    try {
      while (this.outdated && this.watched) await lanes.reading.run(() => this.readDetails());
      await lanes.reading.run(() => this.readPicture());
    } catch (error) {
      // Whoever follows the machines finds out too, and shows it for all.
      if (!(error instanceof Silence)) throw error;
    } finally {
      this.freshening = false;
    }
  }

  async readDetails() {
    this.outdated = false;
    try {
      await this.readReason();
      this.showBoot(await request(`${this.url}/boot`));
      this.readAt = Date.now();
    } catch (error) {
      if (!(error instanceof Refusal)) {
        this.outdated = true;
        throw error;
      }
      this.showNoBoot(error.message);
    }
  }

  /** The reason for the state, where it makes a difference. */
  async readReason() {
    if (this.reason || !WITH_REASON.includes(this.machine.state)) return;
    const { state, reason } = await request(`${this.url}/state_controller/status`);
    if (state !== this.machine.state) return;
    this.reason = reason;
    this.show();
  }

  /** @param {Boot} boot */
  showBoot(boot) {
    if (JSON.stringify(boot) === JSON.stringify(this.boot)) return;
    this.boot = boot;
    const devices = boot.order.map((device) => make("li", "", spelled(device)));
    if (boot.once) devices.unshift(make("li", "once", `${DEVICES[boot.once][0]}, once`));
    if (!devices.length) devices.push(make("li", "", "nothing"));
    const order = make("ol", "", ...devices);
    const long = make("span", "unseen", ": it runs by another order until it is switched off");
    const pending = boot.pending ? [make("p", "tag", "pending", long)] : [];
    this.element.querySelector(".order").replaceChildren(order, ...pending);
    this.tell("row:changed");
  }

  showNoBoot(why) {
    this.boot = null;
    this.element.querySelector(".order").replaceChildren(make("p", "label", `not known: ${why}`));
  }

  async readPicture() {
    if (!this.wantsPicture) return;
    try {
      const blob = await request(`${this.url}/screenshot`, { as: "blob" });
      if (this.wantsPicture) this.showPicture(URL.createObjectURL(blob));
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      this.noPictureUntil = Date.now() + REFUSAL_LASTS;
      this.dropPicture("no picture", error.message);
    }
  }

  get wantsPicture() {
    return this.watched && this.machine.power === "on" && Date.now() >= this.noPictureUntil;
  }

  showPicture(url) {
    const old = this.picture.src;
    this.picture.src = url;
    this.picture.hidden = false;
    write(this.hint, "");
    this.namePicture();
    this.tell("row:picture");
    if (old) URL.revokeObjectURL(old);
  }

  dropPicture(hint, why = hint) {
    if (this.picture.src) URL.revokeObjectURL(this.picture.src);
    this.picture.removeAttribute("src");
    this.picture.hidden = true;
    write(this.hint, hint);
    this.namePicture();
    this.whyNoPicture = why;
    this.tell("row:picture");
  }

  namePicture() {
    const hint = this.hint.textContent && `: ${this.hint.textContent}`;
    this.element.querySelector(".picture").ariaLabel = `Screen of ${this.machine.name}${hint}`;
  }

  /** Ends whatever it holds: the machine is gone. */
  close() {
    this.inView = this.enlarged = false;
    this.dropPicture("gone", "this machine is gone");
    this.element.remove();
  }
}

/** `network:52:54:00:00:01:01`, as one reads it. */
export function spelled(device) {
  return device.replace(":", " ");
}

/** A state as a word, a shape and a colour. */
export function showState(place, state, reason = "") {
  place.dataset.condition = condition(state, reason);
  const told = reason && reason !== "unknown";
  write(place.querySelector("span"), told ? `${state} (${reason})` : state);
}
