/** What is used of htm with Preact (`preact/standalone.module.js`). */
export function h(type: unknown, props: object | null, ...children: unknown[]): unknown;
export function html(strings: TemplateStringsArray, ...values: unknown[]): any;
export function render(what: unknown, into: Element): void;
export function createContext<T>(value: T): { Provider: unknown };
export function useContext(context: unknown): any;
export function useEffect(effect: () => void | (() => void), inputs?: readonly unknown[]): void;
export function useRef<T>(value: T): { current: T };
export function useState<T>(value: T | (() => T)): [T, (value: T | ((now: T) => T)) => void];
