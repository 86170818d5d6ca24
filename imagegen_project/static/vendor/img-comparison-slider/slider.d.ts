/** Only run for the element that it defines. */
export {};
