/** The program of the product's own pages. */
