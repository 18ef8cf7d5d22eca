/** What every part uses and what uses nothing. */
export {};
