"use strict";
// Light or dark: the system's, or what a reader chose, remembered where the browser lets a page remember.
// Runs before anything is painted.

const theme = {
  system: matchMedia("(prefers-color-scheme: dark)"),
  choice: "system",
  onWhite: false, // for paper, and for images
  choices: ["system", "light", "dark"],
  isDark: () => theme.choice === "dark" || (theme.choice === "system" && theme.system.matches),
};

function showTheme() {
  document.documentElement.dataset.theme = theme.isDark() ? "dark" : "light";
  document.querySelectorAll("[data-choose-theme]").forEach((button) => {
    button.setAttribute("aria-pressed", button.dataset.chooseTheme === theme.choice);
  });
  document.dispatchEvent(new Event("theme"));
}

function chooseTheme(choice) {
  theme.choice = theme.choices.includes(choice) ? choice : "system";
  showTheme();
  try {
    localStorage.setItem("theme", theme.choice);
  } catch { /* a page opened from a file may have no memory: the choice then lasts as long as the page */ }
}

try {
  const remembered = localStorage.getItem("theme");
  if (theme.choices.includes(remembered)) theme.choice = remembered;
} catch { /* as above */ }
showTheme();
theme.system.addEventListener("change", showTheme);

document.addEventListener("DOMContentLoaded", () => {
  document.querySelector(".themes").hidden = false;
  document.querySelectorAll("[data-choose-theme]").forEach((button) => {
    button.addEventListener("click", () => chooseTheme(button.dataset.chooseTheme));
  });
  showTheme();
});
