"use strict";
// On paper nothing can be opened.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((details) => (details.open = true)));
