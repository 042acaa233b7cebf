package apps

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/columns"
)

var controllerRevision = api.Definition[*appsv1.ControllerRevision]{
	GroupVersion: appsv1.SchemeGroupVersion,
	Kind:         "ControllerRevision",
	Resource:     "controllerrevisions",
	Singular:     "controllerrevision",
	New:          func() *appsv1.ControllerRevision { return &appsv1.ControllerRevision{} },
	NewList:      func() runtime.Object { return &appsv1.ControllerRevisionList{} },

	Validate: func(_ context.Context, r *appsv1.ControllerRevision) field.ErrorList {
		return append(checkRevision(r), checkRevisionData(r.Data.Raw, field.NewPath("data"))...)
	},
	ValidateUpdate: func(_ context.Context, r, old *appsv1.ControllerRevision) field.ErrorList {
		return append(checkRevision(r), apivalidation.ValidateImmutableField(r.Data, old.Data, field.NewPath("data"))...)
	},
	Columns: []metav1.TableColumnDefinition{
		columns.Name(),
		columns.Text("Controller", "Controller of the object"),
		columns.Text("Revision", appsv1.ControllerRevision{}.SwaggerDoc()["revision"]),
		columns.Age(),
	},
	Row: func(r *appsv1.ControllerRevision) []any {
		controller := "<none>"
		if owner := metav1.GetControllerOf(r); owner != nil {
			kind := schema.FromAPIVersionAndKind(owner.APIVersion, owner.Kind).GroupKind()
			controller = strings.ToLower(kind.String()) + "/" + owner.Name
		}
		return []any{r.Name, controller, r.Revision, columns.Since(r.CreationTimestamp.Time)}
	},
}

func checkRevision(r *appsv1.ControllerRevision) field.ErrorList {
	return apivalidation.ValidateNonnegativeField(r.Revision, field.NewPath("revision"))
}

func checkRevisionData(data []byte, path *field.Path) field.ErrorList {
	if data == nil {
		return field.ErrorList{field.Required(path, "data is mandatory")}
	}
	var value any
	if err := json.Unmarshal(data, &value); err != nil {
		return field.ErrorList{field.Invalid(path, "<value omitted>", fmt.Sprintf("error parsing data: %v", err))}
	}
	if value == nil {
		return field.ErrorList{field.Required(path, "data is mandatory")}
	}
	if _, ok := value.(map[string]any); !ok {
		return field.ErrorList{field.Required(path, "data must be a valid JSON object")}
	}
	return nil
}
