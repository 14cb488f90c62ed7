/** Small things that every part of the page does with elements, words and time. */

export const byId = (id) => document.getElementById(id);

/** @param {number} time in milliseconds */
export const pause = (time) => new Promise((done) => setTimeout(done, time));

export const clock = () => new Date().toLocaleTimeString();

/** An element with a class and children, which are elements or text. */
export function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

/** Changes text only where it differs: what is announced is not to be announced again. */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Tells those who do not see the page. */
export function speak(text) {
  byId("spoken").textContent = text;
}

export function untilVisible() {
  if (!document.hidden) return Promise.resolve();
  return new Promise((seen) => {
    document.addEventListener("visibilitychange", () => seen(), { once: true });
  });
}
