import { effect, signal } from "@preact/signals";

export type Choice = "system" | "light" | "dark";

const KEY = "milkrun-theme";
const dark = matchMedia("(prefers-color-scheme: dark)");

function kept(): Choice {
  const value = localStorage.getItem(KEY);
  return value === "light" || value === "dark" ? value : "system";
}

export const choice = signal<Choice>(kept());
export const isDark = signal(dark.matches);

const settle = (): void => {
  isDark.value = choice.value === "system" ? dark.matches : choice.value === "dark";
};
dark.addEventListener("change", settle);

effect(() => {
  settle();
  if (choice.value === "system") {
    delete document.documentElement.dataset["theme"];
    localStorage.removeItem(KEY);
  } else {
    document.documentElement.dataset["theme"] = choice.value;
    localStorage.setItem(KEY, choice.value);
  }
});
