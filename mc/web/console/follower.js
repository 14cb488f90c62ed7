/**
 * Following the machines, and saying so when that is not possible.
 *
 * The event stream tells every change at once. Where there is none to be had (too many pages have
 * one), and to find out what is wrong when it ends, the list of machines is read again and again.
 */

import { Refusal, Silence, request } from "./calls.js";
import { byId, clock, pause, untilVisible, write } from "./dom.js";
import { filter, machines } from "./machines.js";

// Milliseconds.
const POLL_EVERY = 2000;
const TRY_STREAM_EVERY = 15000;
const LONGEST_SILENCE = 15000;

const WORDS = {
  live: "Live",
  polling: `Polling every ${POLL_EVERY / 1000} s`,
  away: "libvirt is away",
  alone: "No controller",
  refused: "Refused",
};

export const follower = {
  polling: false,
  lastSeen: "",

  get away() {
    return !["live", "polling"].includes(document.body.dataset.link);
  },

  async run() {
    for (;;) {
      await untilVisible();
      const streamed = await this.stream();
      const tryAgain = Date.now() + (streamed ? 0 : TRY_STREAM_EVERY);
      this.polling = true;
      // Another attempt at a stream makes sense only where a controller answers.
      while (!(await this.poll()) || Date.now() < tryAgain) {
        await pause(POLL_EVERY);
        await untilVisible();
      }
      this.polling = false;
      await pause(POLL_EVERY / 2);
    }
  },

  /** Listens as long as it works and somebody looks; whether anything was heard. */
  stream() {
    return new Promise((ended) => {
      const source = new EventSource("/events");
      let heard = false;
      let silence = 0;
      const end = () => {
        clearTimeout(silence);
        document.removeEventListener("visibilitychange", leave);
        source.close();
        ended(heard);
      };
      // Streams are few: a page that nobody sees leaves its own to others.
      const leave = () => document.hidden && end();
      // A connection that breaks without a word shows in that nobody answers any more.
      const wait = () => {
        clearTimeout(silence);
        silence = setTimeout(async () => ((await this.poll()) ? wait() : end()), LONGEST_SILENCE);
      };
      const on = (kind, take) => source.addEventListener(kind, ({ data }) => {
        heard = true;
        wait();
        take(JSON.parse(data));
      });
      on("libvirt", (news) => (news.reachable ? this.show("live") : this.libvirtAway(news.detail)));
      on("machines", (list) => this.take(list, "live"));
      on("machine", (machine) => this.changed(() => machines.put(machine, true)));
      on("gone", ({ uuid }) => this.changed(() => machines.forget(uuid)));
      source.addEventListener("error", end);
      document.addEventListener("visibilitychange", leave);
      wait();
    });
  },

  /** Reads the list; whether the controller answered, be it that libvirt is away. */
  async poll() {
    try {
      this.take(await request("/service/machines"), this.polling ? "polling" : "live");
    } catch (error) {
      if (error instanceof Silence) this.show("alone", "The controller does not answer");
      else if (error.status >= 503) this.libvirtAway(error.message);
      else this.show("refused", `The controller refuses: ${error.message}`);
      return error instanceof Refusal;
    }
    return true;
  },

  take(list, how) {
    this.show(how);
    machines.take(list);
  },

  changed(change) {
    this.lastSeen = clock();
    change();
    filter.count();
  },

  libvirtAway(detail) {
    this.show("away", `libvirt is away: ${detail}`);
  },

  /** @param {keyof typeof WORDS} how */
  show(how, why = "") {
    document.body.dataset.link = how;
    write(byId("link").querySelector("span"), WORDS[how]);
    document.title = why ? `${WORDS[how]} · Machines` : "Machines";
    if (!why) this.lastSeen = clock();
    const seen = this.lastSeen && ` What is shown was so at ${this.lastSeen}.`;
    write(byId("away"), why && `${why}.${seen} Trying again.`);
  },
};
