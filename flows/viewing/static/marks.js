// Slides that somebody has marked, kept in this browser.

import { store, stored } from './dom.js';

const key = (about) => `mhim-marks:${about.kind}:${about.title}`;

export const marks = (about) => new Set(stored(key(about), []));

export function toggleMark(about, slideId) {
  const marked = marks(about);
  if (!marked.delete(slideId)) marked.add(slideId);
  store(key(about), [...marked].sort());
  return marked.has(slideId);
}
