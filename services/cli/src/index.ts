/** The bowline command has no library: others start `bin/bowline.js` or `src/main.ts`. */
export {};
