/** Doing a verb: the question before, the progress meanwhile, and what came of it, in the row. */

import { ACTION_SECONDS, Refusal, Silence, lanes, request } from "./calls.js";
import { ask } from "./dialogs.js";
import { clock, make, speak, write } from "./dom.js";
import { VERBS } from "./verbs.js";

/**
 * Asks first where a verb has a warning, then does it.
 * @param {import("./row.js").Row} row
 */
export async function choose(row, name) {
  try {
    // By it, resuming a machine may turn out to be switching it off and on.
    await row.readReason();
  } catch (error) {
    new Entry(row, name).finish("failed", error.message);
    return;
  }
  const choices = VERBS[name].warning ? await ask.about(row, name) : {};
  if (choices) await perform(row, name, choices);
}

/** @param {import("./verbs.js").Choices} choices */
async function perform(row, name, choices) {
  const { labels, fields, body, method = "POST", path = `state_controller/${name}` } = VERBS[name];
  const waits = fields?.(row.condition).includes("seconds") ? choices.seconds : 0;
  const entry = new Entry(row, labels[row.condition] ?? name);
  const lane = waits ? lanes.waiting : lanes.acting;
  if (lane.full) entry.write("waits for other actions to end");
  try {
    const answer = await lane.run(() => {
      entry.begin(waits, name !== "power_off" || choices.force);
      const seconds = waits + ACTION_SECONDS;
      return request(`${row.url}/${path}`, { method, body: body?.(choices), seconds });
    });
    entry.finish("done", outcome(name, answer));
  } catch (error) {
    entry.finish("failed", error.message);
    if (!(error instanceof Refusal || error instanceof Silence)) throw error;
  }
  row.update(row.machine, true);
  row.tell("row:acted");
}

/** What the controller's answer says, in a few words. */
function outcome(name, answer) {
  if (name === "boot") return answer.changed ? "set" : "was set already";
  const state = answer.reason ? `${answer.state} (${answer.reason})` : answer.state;
  if (name === "power_off" && answer.power === "on") return `asked; it is still ${state}`;
  return answer.changed ? state : `nothing to do, it is ${state}`;
}

/** A line in a row: an action under way, and then its outcome until the next action. */
class Entry {
  constructor(row, label) {
    this.row = row;
    this.label = label;
    this.text = make("span", "", `${label} …`);
    this.element = make("div", "entry pending", this.text);
    const place = row.element.querySelector(".answer");
    for (const finished of place.querySelectorAll(".entry:not(.pending)")) finished.remove();
    place.append(this.element);
    speak(`${row.machine.name}: ${label}`);
  }

  write(words) {
    write(this.text, words ? `${this.label}: ${words}` : `${this.label} …`);
  }

  /**
   * @param {number} seconds that its guest gets to shut down; 0 if it is not asked to
   * @param {boolean} cuts whether its power is cut after that
   */
  begin(seconds, cuts) {
    this.write("");
    if (!seconds) return;
    const end = Date.now() + 1000 * seconds;
    const bar = Object.assign(make("progress", ""), { max: seconds });
    bar.ariaLabel = `${this.label}, time left`;
    const force = Object.assign(make("button", "", "Cut its power now"), { type: "button" });
    force.addEventListener("click", () => perform(this.row, "force_off", {}));
    this.element.append(bar, force);
    const tick = () => {
      const left = Math.max(0, Math.ceil((end - Date.now()) / 1000));
      this.write(left && `its guest is shutting down, ${cuts ? "power cut in" : "waiting for"} ${left} s`);
      if (left) bar.value = left;
      else bar.removeAttribute("value");
    };
    tick();
    this.ticking = setInterval(tick, 250);
  }

  /** @param {"done" | "failed"} kind */
  finish(kind, words) {
    clearInterval(this.ticking);
    this.row.rescueFocus(this.element);
    this.element.className = `entry ${kind}`;
    this.element.replaceChildren(make("time", "", clock()), ` ${this.label}: ${words}`);
    speak(`${this.row.machine.name}, ${this.label}: ${words}`);
  }
}
