"""The registry's routes."""

from imagegen_project.common.routers import route
from models_registry.api.views import ModelDetailView, ModelListView

urlpatterns = [
    route("models", ModelListView.as_view(), "models"),
    # A repository's name holds a slash.
    route(
        r"models/(?P<name>[A-Za-z0-9._-]{1,100}(?:/[A-Za-z0-9._-]{1,100})?)",
        ModelDetailView.as_view(),
        "model",
    ),
]
