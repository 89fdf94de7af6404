// Light or dark: what the system asks for, until somebody chooses. The choice is kept.

const KEY = "laplm-theme";

/** @param {HTMLButtonElement} button switches; its text says to what */
export function startTheme(button) {
  const system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = localStorage.getItem(KEY);

  const apply = () => {
    const dark = chosen ? chosen === "dark" : system.matches;
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    button.textContent = dark ? "Light" : "Dark";
    button.setAttribute("aria-label", `Switch to the ${dark ? "light" : "dark"} theme`);
    // Canvases are painted in the theme's colours, and must be painted again.
    document.dispatchEvent(new CustomEvent("themechange"));
  };

  button.addEventListener("click", () => {
    chosen = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    localStorage.setItem(KEY, chosen);
    apply();
  });
  system.addEventListener("change", apply);
  apply();
}
