"""The API for people with a browser: each route as a page, with its answer and the forms for what it takes."""
