package columns

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

func TestCells(t *testing.T) {
	names, images := ContainerCells([]corev1.Container{{Name: "a", Image: "x:1"}, {Name: "b", Image: "y:2"}})
	if names != "a,b" || images != "x:1,y:2" {
		t.Errorf("containers %q, images %q", names, images)
	}
	if age := Since(time.Now().Add(-90 * time.Minute)); age != "90m" {
		t.Errorf("age %q, want 90m", age)
	}
	if age := Since(time.Time{}); age != "<unknown>" {
		t.Errorf("age of nothing %q", age)
	}
}
