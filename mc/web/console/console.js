/**
 * The console page: every machine, its screen, and what it boots next.
 *
 * It uses the public URLs only, so it is also an example of a client. Machines come from the
 * follower into the list; a row reads the rest while it is in view; verbs are done by actions.js.
 */

import { choose } from "./actions.js";
import { request } from "./calls.js";
import { ask, screen } from "./dialogs.js";
import { byId, pause, untilVisible, write } from "./dom.js";
import { follower } from "./follower.js";
import { filter, machines } from "./machines.js";
import { menu } from "./menu.js";

const PICTURES_EVERY = 3000; // milliseconds
/** Which item of a menu gets the focus, by the key that opens it. */
const OPENING = { ArrowDown: 0, ArrowUp: -1 };

const list = machines.element;

function clicked(button) {
  const row = machines.of(button);
  if (button.dataset.verb) choose(row, button.dataset.verb);
  else if (button.classList.contains("picture")) screen.open(row);
  else if (menu.button === button) menu.close();
  else if (button.dataset.menu) menu.open(row, button);
}

function listen() {
  list.addEventListener("click", ({ target }) => {
    const button = target.closest("button");
    if (button) clicked(button);
  });
  list.addEventListener("keydown", (event) => {
    const button = event.target.closest("[data-menu]");
    if (!button || !(event.key in OPENING)) return;
    event.preventDefault();
    menu.open(machines.of(button), button, OPENING[event.key]);
  });
  list.addEventListener("row:changed", ({ detail: row }) => {
    for (const part of [menu, ask, screen]) part.refresh(row);
  });
  list.addEventListener("row:picture", ({ detail: row }) => screen.showPicture(row));
  list.addEventListener("row:gone", ({ detail: row }) => menu.row === row && menu.close());
  list.addEventListener("row:acted", () => follower.polling && follower.poll());
  for (const part of [menu, ask, screen, filter]) part.listen();
}

/** Keeps the pictures of the rows in view fresh, while somebody looks. */
async function keepFresh() {
  for (;;) {
    await untilVisible();
    if (!follower.away) await Promise.all(machines.inView.map((row) => row.freshen()));
    await pause(PICTURES_EVERY);
  }
}

/** Whose machines these are, and what a guest gets to shut down. */
async function introduce() {
  const about = await request("/service").catch(() => null);
  if (!about) {
    // The follower says what is wrong.
    await pause(PICTURES_EVERY);
    return introduce();
  }
  write(byId("where"), about.libvirt);
  ask.seconds = about.grace_seconds;
}

listen();
introduce();
follower.run();
keepFresh();
