package iommufd

import (
	"testing"

	"go.uber.org/goleak"
	"gotest.tools/v3/assert"

	"github.com/nestbed/nestbed/guestagent/uapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Every call on a closed descriptor is refused by the kernel, by its own name.
func TestErrorsNameTheOperation(t *testing.T) {
	c := &Context{uapi.Own(-1, "IOMMUFD")}
	s := &IOAS{c, 3}
	_, alloc := c.AllocIOAS()
	_, unmap := s.Unmap(0, 4096)
	for _, e := range []struct {
		err  error
		want string
	}{
		{alloc, "IOMMU_IOAS_ALLOC IOMMUFD"},
		{s.Map(make([]byte, 1), 0), "IOMMU_IOAS_MAP IOAS 3"},
		{unmap, "IOMMU_IOAS_UNMAP IOAS 3"},
		{s.Destroy(), "IOMMU_DESTROY IOAS 3"},
	} {
		assert.Error(t, e.err, e.want+": bad file descriptor")
	}
	assert.Equal(t, s.ID(), uint32(3))
}
