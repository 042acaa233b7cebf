package columns

import (
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
)

var objectMeta = metav1.ObjectMeta{}.SwaggerDoc()

// Name is the first column of nearly every table.
func Name() metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: "Name", Type: "string", Format: "name", Description: objectMeta["name"]}
}

// Age goes with the cell that Since makes of the creation time.
func Age() metav1.TableColumnDefinition {
	return Text("Age", objectMeta["creationTimestamp"])
}

// Text is a column of strings.
func Text(name, description string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: "string", Description: description}
}

// Number is a column of int64.
func Number(name, description string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: "integer", Description: description}
}

// Wide is a column of strings that only wide output shows.
func Wide(name, description string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: "string", Priority: 1, Description: description}
}

// Containers are the two columns for the cells of ContainerCells.
func Containers() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		Wide("Containers", "Names of each container in the template."),
		Wide("Images", "Images referenced by each container in the template."),
	}
}

// ContainerCells lists the names and the images of containers.
func ContainerCells(containers []corev1.Container) (names, images string) {
	n, i := make([]string, len(containers)), make([]string, len(containers))
	for k := range containers {
		n[k], i[k] = containers[k].Name, containers[k].Image
	}
	return strings.Join(n, ","), strings.Join(i, ",")
}

// Since is the time passed since t, in the short form of ages ("5m2s").
func Since(t time.Time) string {
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(time.Since(t))
}
