"""The viewer's server: what is looked at, the jobs behind a page, who may ask, the routes and the pages' files."""
