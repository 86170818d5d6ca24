"""Where everything is mounted."""

from django.contrib import admin
from django.templatetags.static import static
from django.urls import include, path, re_path
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

from generation.admin.dashboard import dashboard_view
from generation.api import share_views
from generation.compat.a1111 import views as a1111
from generation.compat.dialect import NothingHereView
from generation.compat.huggingface import views as huggingface
from generation.compat.openai import views as openai
from imagegen_project import health, pages
from imagegen_project.api import routes
from imagegen_project.auth import sign_in
from imagegen_project.openapi.events import AsyncApiView
from imagegen_project.telemetry.metrics import MetricsView

handler400 = "imagegen_project.refusals.bad_request"
handler403 = "imagegen_project.refusals.permission_denied"
handler404 = "imagegen_project.refusals.not_found"
handler500 = "imagegen_project.refusals.server_error"

# What people type, and what browsers ask for beside a picture or JSON.
TYPED = {
    "admin": "/admin/",
    "docs": "/api/docs/",
    "docs/": "/api/docs/",
    "api": "/api/v1/",
    "api/": "/api/v1/",
    "api/v1": "/api/v1/",
    "gallery": "/gallery/",
    "account": "/account/",
    "favicon.ico": static("icon.svg"),
}

admin.site.enable_nav_sidebar = False  # lists need the room
admin.site.site_header = admin.site.site_title = "imagegen"

urlpatterns = [
    *pages.urlpatterns,
    re_path(r"^health/ready/?$", health.ready, name="health-ready"),
    re_path(r"^metrics/?$", MetricsView.as_view(), name="metrics"),
    path("api/v1/", include((routes, "api"), namespace="api")),
    path("v1/", include((openai.urlpatterns, "openai"))),
    path("v1/", include((routes, "api"), namespace="short")),
    re_path(r"^v1(?:/|$)", NothingHereView.as_view()),
    path("hf/", include((huggingface.urlpatterns, "huggingface"))),
    path("sdapi/v1/", include((a1111.urlpatterns, "a1111"))),
    re_path(r"^api/schema/?$", SpectacularAPIView.as_view(), name="schema"),
    re_path(r"^api/asyncapi/?$", AsyncApiView.as_view(), name="asyncapi"),
    re_path(r"^api/docs/?$", SpectacularSwaggerSplitView.as_view(url_name="schema"), name="docs"),
    *share_views.page_urlpatterns,
    *sign_in.urlpatterns,  # before the admin's own door
    path("admin/dashboard.json", admin.site.admin_view(dashboard_view), name="dashboard"),
    path("admin/", admin.site.urls),
    *(
        path(typed, RedirectView.as_view(url=address, query_string=True), name="typed")
        for typed, address in TYPED.items()
    ),
]
