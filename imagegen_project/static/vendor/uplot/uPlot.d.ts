// The parts of uPlot that the dashboard uses; its script makes a global of it.
declare namespace uPlot {
  type Data = (number | null)[][];
  interface Options {
    width: number;
    height: number;
    scales: { y: { range: (plot: uPlot, least: number, most: number) => [number, number] } };
    axes: object[];
    series: object[];
  }
}
declare class uPlot {
  constructor(options: uPlot.Options, data: uPlot.Data, place: HTMLElement);
  setData(data: uPlot.Data): void;
  setSize(size: { width: number; height: number }): void;
}
