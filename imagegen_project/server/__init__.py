"""The web server: what stands between a connection and Django. It knows no app."""
