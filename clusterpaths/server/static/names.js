// @ts-check
// The form for a name, which works without: who writes is remembered, saving stays on the page, and an edit of somebody else is
// shown beside one's own text.

const WHO = "clusterpaths.by";

/** @param {HTMLFormElement} form */
const improve = (form) => {
  const field = (/** @type {string} */ name) => /** @type {HTMLInputElement} */ (form.elements.namedItem(name));
  const alarm = /** @type {HTMLElement} */ (form.querySelector("[role=alert]"));
  const button = /** @type {HTMLButtonElement} */ (form.querySelector("button"));
  field("by").value ||= localStorage.getItem(WHO) ?? "";

  /** @param {string} text */
  const complain = (text) => {
    alarm.textContent = text;
    alarm.hidden = false;
    button.disabled = false;
  };

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    localStorage.setItem(WHO, field("by").value.trim());
    const body = { name: field("name").value, note: field("note").value, by: field("by").value, revision: Number(field("revision").value) };
    try {
      const answer = await fetch(form.dataset.api ?? "", {
        method: "PUT", headers: { "content-type": "application/json" }, body: JSON.stringify(body),
      });
      if (answer.ok) {
        location.reload();
        return;
      }
      complain((await answer.json()).detail);
      if (answer.status !== 409) return;
      const now = await (await fetch(form.dataset.api ?? "")).json();
      field("revision").value = String(now.revision);
      button.textContent = "Save mine instead";
    } catch {
      complain("The server does not answer. Nothing was saved; your text is still here.");
    }
  });
};

for (const form of /** @type {NodeListOf<HTMLFormElement>} */ (document.querySelectorAll("form.name-form"))) improve(form);
