// The search of pages that are opened from a disk: browsers start no worker there, so its script
// runs in a hidden frame of the same page. Zensical would load such a file from elsewhere.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    #frame = document.createElement("iframe");
    #waiting = [];

    constructor(url) {
      super();
      this.#frame.hidden = true;
      document.documentElement.append(this.#frame);
      const inside = this.#frame.contentWindow;
      inside.postMessage = (data) => this.#deliver(this, MessageEvent, structuredClone(data));
      const script = inside.document.createElement("script");
      script.src = url;
      script.onload = () => {
        for (const data of this.#waiting) this.#send(data);
        this.#waiting = null;
      };
      script.onerror = () => this.onerror?.(new Event("error"));
      inside.document.head.append(script);
    }

    // A worker's messages are copies, and come later, never within the call that sends them.
    #deliver(target, kind, data) {
      setTimeout(() => {
        const event = new kind("message", { data });
        target.dispatchEvent(event);
        if (target === this) this.onmessage?.(event); // a window calls its own
      });
    }

    #send(data) {
      const inside = this.#frame.contentWindow;
      this.#deliver(inside, inside.MessageEvent, data);
    }

    postMessage(data) {
      const copy = structuredClone(data);
      if (this.#waiting) this.#waiting.push(copy);
      else this.#send(copy);
    }

    terminate() {
      this.#frame.remove();
    }
  };
}
