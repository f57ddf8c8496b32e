// SPDX-License-Identifier: Apache-2.0

package harness

// The tutorial's layer-2 and ExternalIP parts, word for word but for node names, which carry
// the name of its kind cluster there ("myk8s-worker" is "worker" here).
const (
	// TutorialPool is the pool, of MetalLB's own kind.
	TutorialPool = `apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata:
  name: my-ippool
  namespace: metallb-system
spec:
  addresses:
  - 172.20.255.200-172.20.255.250
`
	// TutorialAdvertisement announces it by layer 2.
	TutorialAdvertisement = `apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata:
  name: my-l2-advertise
  namespace: metallb-system
spec:
  ipAddressPools:
  - my-ippool
`
	// TutorialPods are the two web servers, on two nodes.
	TutorialPods = `apiVersion: v1
kind: Pod
metadata:
  name: webpod1
  labels:
    app: webpod
spec:
  nodeName: worker
  containers:
  - name: container
    image: traefik/whoami
  terminationGracePeriodSeconds: 0
---
apiVersion: v1
kind: Pod
metadata:
  name: webpod2
  labels:
    app: webpod
spec:
  nodeName: worker2
  containers:
  - name: container
    image: traefik/whoami
  terminationGracePeriodSeconds: 0
`
	// TutorialServices are svc1, svc2 and svc3 in front of them.
	TutorialServices = `apiVersion: v1
kind: Service
metadata:
  name: svc1
spec:
  ports:
    - name: svc1-webport
      port: 80
      targetPort: 80
  selector:
    app: webpod
  type: LoadBalancer  # the type of the Service is LoadBalancer
---
apiVersion: v1
kind: Service
metadata:
  name: svc2
spec:
  ports:
    - name: svc2-webport
      port: 80
      targetPort: 80
  selector:
    app: webpod
  type: LoadBalancer
---
apiVersion: v1
kind: Service
metadata:
  name: svc3
spec:
  ports:
    - name: svc3-webport
      port: 80
      targetPort: 80
  selector:
    app: webpod
  type: LoadBalancer
`
	// TutorialEcho are the pods of its ExternalIP section.
	TutorialEcho = `apiVersion: apps/v1
kind: Deployment
metadata:
  name: deploy-echo
spec:
  replicas: 2
  selector:
    matchLabels:
      app: deploy-websrv
  template:
    metadata:
      labels:
        app: deploy-websrv
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: ndks-websrv
        image: k8s.gcr.io/echoserver:1.5
        ports:
        - containerPort: 8080
`
	// TutorialExternalService is in front of them, on addresses of two nodes.
	TutorialExternalService = `apiVersion: v1
kind: Service
metadata:
  name: svc-externalip
spec:
  type: ClusterIP
  externalIPs:
  - 192.168.10.101
  - 192.168.10.102
  ports:
  - name: svc-webport
    port: 9000
    targetPort: 8080
  selector:
    app: deploy-websrv
`
)
